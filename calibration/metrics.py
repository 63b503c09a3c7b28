"""Scores, maps and truths -> the figures that are compared with papers. Pure NumPy; evaluate.py feeds it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from calibration.errors import CalibrationError

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
PRO_LIMIT = 0.3
# Maps are compared at this many levels of the good pixels' false-positive rate; between them PRO is linear.
PRO_POINTS = 1000


@dataclass(frozen=True, slots=True)
class RateInterval:
    """count of total as a share, with its Clopper-Pearson interval."""

    rate: float
    low: float
    high: float
    count: int
    total: int


def image_auroc(scores: Floats, defective: Bools) -> float:
    """Area under the ROC curve; scores (P,), defective (P,), both kinds present. Raises CalibrationError."""
    _both_kinds(defective)
    return float(roc_auc_score(defective, scores))


def average_precision(scores: Floats, defective: Bools) -> float:
    """Area under the precision-recall curve, step-wise. Raises CalibrationError."""
    _both_kinds(defective)
    return float(average_precision_score(defective, scores))


def fpr_at_tpr(scores: Floats, defective: Bools, tpr: float = 0.95) -> float:
    """FP / (FP + TN) at the highest limit that finds at least `tpr` of the defective parts. Raises CalibrationError."""
    _both_kinds(defective)
    false_rate, true_rate, _ = roc_curve(defective, scores, drop_intermediate=False)
    return float(false_rate[np.flatnonzero(true_rate >= tpr - 1e-12)[0]])


def tpr_at_fpr(scores: Floats, defective: Bools, fpr: float = 0.10) -> float:
    """TP / (TP + FN) at the lowest limit that rejects at most `fpr` of the good parts. Raises CalibrationError."""
    _both_kinds(defective)
    false_rate, true_rate, _ = roc_curve(defective, scores, drop_intermediate=False)
    return float(true_rate[np.flatnonzero(false_rate <= fpr + 1e-12)[-1]])


def auroc_interval(
    scores: Floats, defective: Bools, confidence: float = 0.95, resamples: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of image_auroc, good and defective parts drawn apart. Raises CalibrationError."""
    _both_kinds(defective)
    good, bad = np.sort(scores[~defective]), np.sort(scores[defective])
    generator = np.random.default_rng(seed)
    areas = np.empty(resamples)
    for index in range(resamples):
        drawn_good = np.sort(generator.choice(good, len(good)))
        drawn_bad = generator.choice(bad, len(bad))
        # Mann-Whitney: pairs won, ties counting half.
        won = np.searchsorted(drawn_good, drawn_bad, "left") + np.searchsorted(drawn_good, drawn_bad, "right")
        areas[index] = won.sum() / (2 * len(good) * len(bad))
    low, high = np.quantile(areas, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def rate_interval(count: int, total: int, confidence: float = 0.95) -> RateInterval | None:
    """The exact binomial (Clopper-Pearson) interval of a share; None of nothing."""
    if total == 0:
        return None
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, count, total - count + 1)) if count > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return RateInterval(count / total, low, high, count, total)


def pixel_auroc(maps: NDArray[np.float32], masks: Bools, inside: Bools) -> float:
    """Area under the ROC curve over the pixels of all maps; exact, ties counting half.

    maps: (N, H, W) float32, masks: (N, H, W) true on defects, inside: (H, W) true where pixels count. Both kinds of
    pixels present. From two sorts, without the float64 copies of scikit-learn. Raises CalibrationError.
    """
    good, bad = _good_and_bad(maps, masks, inside)
    won = np.searchsorted(good, bad, "left").sum(dtype=np.int64) + np.searchsorted(good, bad, "right").sum(
        dtype=np.int64
    )
    return float(won / (2 * len(good) * len(bad)))


def pro(maps: NDArray[np.float32], masks: Bools, inside: Bools, limit: float = PRO_LIMIT) -> float:
    """Per-region overlap, integrated over the false-positive rate from 0 to `limit` and divided by `limit`.

    Bergmann et al. 2021 (IJCV 129), as in MVTec's own evaluation: the mean over all connected (8) defect areas of the
    share of the area's pixels above a cut, against FP / (FP + TN) over all good pixels. Arguments as pixel_auroc.
    Cuts are taken at PRO_POINTS false-positive rates, with straight lines between. Raises CalibrationError.
    """
    good, _ = _good_and_bad(maps, masks, inside)
    allowed = np.unique(np.linspace(0, limit * len(good), PRO_POINTS + 1).astype(np.int64))
    # The cut that at most `allowed` good pixels pass is the value of the next one; with ties fewer pass.
    cuts = good[len(good) - 1 - np.minimum(allowed, len(good) - 1)]
    # One more, just below the last: the curve then crosses `limit`, however many pixels tie there.
    cuts = np.append(cuts, np.nextafter(cuts[-1], np.float32(-np.inf)))
    false_rate = 1 - np.searchsorted(good, cuts, "right") / len(good)
    overlap = np.zeros(len(cuts))
    areas = 0
    for one_map, mask in zip(maps, masks & inside, strict=True):
        if not mask.any():
            continue
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for area in range(1, count):
            values = np.sort(one_map[labels == area])
            overlap += 1 - np.searchsorted(values, cuts, "right") / len(values)
        areas += count - 1
    return _area_to(false_rate, overlap / areas, limit)


def _good_and_bad(
    maps: NDArray[np.float32], masks: Bools, inside: Bools
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The values of good and of defective pixels, each sorted."""
    values, truth = maps[:, inside], masks[:, inside]  # (N, H, W) -> (N, pixels inside)
    _both_kinds(truth)
    return np.sort(values[~truth]), np.sort(values[truth])


def _area_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """The trapezoidal area under (x, y), x rising from 0, up to `limit`, as a share of `limit`."""
    inside = x <= limit
    at_limit = np.interp(limit, x, y)
    area = np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], limit))
    return float(area / limit)


def _both_kinds(defective: Bools) -> None:
    if not defective.any() or defective.all():
        raise CalibrationError("the figure needs both good and defective parts (or pixels)")
