"""Scores and truths -> the figures of parts that are compared with papers; evaluate.py feeds it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from calibration.errors import CalibrationError

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


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


def _both_kinds(defective: Bools) -> None:
    if not defective.any() or defective.all():
        raise CalibrationError("the figure needs both good and defective parts")
