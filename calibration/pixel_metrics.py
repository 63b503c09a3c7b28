"""Anomaly maps and masks -> pixel AUROC and PRO, with intervals over parts; evaluate.py feeds it.

Both are areas under a curve over the false-positive rate, so both follow from one thing: which share of the good pixels
lies above each defective one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError

Doubles = NDArray[np.float64]
Maps = NDArray[np.float32]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]
PRO_LIMIT = 0.3
BINS = 4096
"""Of about equally many good pixels. In resamples those of one bin count as tied; on all parts as they are, that moves
an AUROC by 1 / BINS at most, a PRO by 1 / (BINS * PRO_LIMIT) = 0.0008."""


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """The two areas, exact, and their percentile bootstrap intervals over parts."""

    auroc: float
    auroc_interval: Interval
    pro: float
    pro_interval: Interval


def pixel_figures(
    maps: Maps,
    masks: Bools,
    inside: Bools,
    *,
    parts: NDArray[np.int64] | None = None,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> PixelFigures:
    """Pixel AUROC and PRO of N images; blocks, for seconds where there are hundreds.

    maps: (N, H, W) float32, masks: (N, H, W) true on defects, inside: (H, W) true where pixels count. parts: (N,) the
    part that each image shows, 0 to P - 1; None: one each.
    PRO: Bergmann et al. 2021 (IJCV 129), as in MVTec's own evaluation: the mean over all connected (8) defect areas of
    the share of the area's pixels above a cut, against FP / (FP + TN) over all good pixels; every value is a cut, lines
    between are straight; integrated from 0 to PRO_LIMIT and divided by it. AUROC counts ties half.
    Intervals: whole parts are drawn again, those with defective pixels and those without apart; the same seed draws the
    same. Raises CalibrationError unless there are good and defective pixels.
    """
    masks = masks & inside
    truth = masks[:, inside]  # N, H, W -> N, pixels inside
    if not truth.any() or truth.all():
        raise CalibrationError("pixel figures need both good and defective pixels")
    good = np.sort(maps[:, inside][~truth])
    owners, values, shares = _defective_pixels(maps, masks)
    above = 1 - np.searchsorted(good, values, "right") / len(good)
    not_below = 1 - np.searchsorted(good, values, "left") / len(good)
    auroc = float(_area(above, not_below, 1.0).mean())
    pro = float((_area(above, not_below, PRO_LIMIT) * shares).sum() / shares.sum())
    edges = _bin_edges(good)
    places = (owners, np.searchsorted(edges, values, "right"))
    good_bins, found, overlaps = (np.zeros((len(maps), len(edges) + 1)) for _ in range(3))
    for bins, one_map, mask in zip(good_bins, maps, masks, strict=True):
        ordered = np.sort(one_map[inside & ~mask])
        bins[:] = np.diff(np.searchsorted(ordered, edges, "left"), prepend=0, append=len(ordered))
    np.add.at(found, places, 1.0)
    np.add.at(overlaps, places, shares)
    owning = np.arange(len(maps)) if parts is None else parts
    counts = _drawn_images(found.sum(axis=1) > 0, owning, resamples, np.random.default_rng(seed))
    drawn = _areas(counts @ good_bins, counts @ found, counts @ overlaps)
    lows, highs = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
    return PixelFigures(auroc, (lows[0], highs[0]), pro, (lows[1], highs[1]))


def _defective_pixels(maps: Maps, masks: Bools) -> tuple[NDArray[np.int64], Maps, Doubles]:
    """Of each defective pixel: its part's number, its value, and its share of its connected area; all (D,)."""
    owners, values, shares = [], [], []
    for number in np.flatnonzero(masks.any(axis=(1, 2))):
        mask = masks[number]
        _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        area = labels[mask]
        owners.append(np.full(len(area), number))
        values.append(maps[number][mask])
        shares.append(1.0 / np.bincount(area)[area])
    return np.concatenate(owners), np.concatenate(values), np.concatenate(shares)


def _area(above: Doubles, not_below: Doubles, limit: float) -> Doubles:
    """What a defective pixel adds to the area up to `limit`, as a share of it; same shape.

    It counts as found from the false-positive rate `above` on; where good pixels tie with it, found by and by until
    `not_below`.
    """
    reached = np.clip(limit - above, 0.0, not_below - above)
    tied = np.where(not_below > above, not_below - above, 1.0)
    return (reached**2 / (2 * tied) + np.maximum(limit - not_below, 0.0)) / limit  # type: ignore[no-any-return]


def _bin_edges(good: Maps) -> Maps:
    """Edges (B - 1,) of bins [edge, next edge): a BINS-th of the sorted good pixels each, larger ties in their own."""
    edges = good[np.arange(1, BINS) * len(good) // BINS]
    tied = edges[1:][edges[1:] == edges[:-1]]
    return np.unique(np.concatenate([edges, np.nextafter(tied, np.float32(np.inf))]))


def _drawn_images(marked: Bools, parts: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> Doubles:
    """How often each image is drawn, (R, N), whole parts at a time; those with defective pixels and without apart.

    marked: (N,) whether an image has defective pixels. parts: (N,) whose it is.
    """
    marked_parts = np.zeros(parts.max() + 1, dtype=np.bool_)
    np.logical_or.at(marked_parts, parts, marked)
    counts = np.zeros((resamples, len(marked_parts)))
    strata = [stratum for stratum in (np.flatnonzero(marked_parts), np.flatnonzero(~marked_parts)) if len(stratum)]
    for row in counts:
        for stratum in strata:
            np.add.at(row, generator.choice(stratum, len(stratum)), 1.0)
    return counts[:, parts]


def _areas(good: Doubles, found: Doubles, overlaps: Doubles) -> Doubles:
    """AUROC and PRO, (R, 2), of good pixels, defective pixels and shares of areas by bin of values, the lowest first.

    All (R, B). Parts without any good pixel, drawn alone, say nothing and are left out.
    """
    good, found, overlaps = (table[good.any(axis=1)] for table in (good, found, overlaps))
    totals = good.sum(axis=1, keepdims=True)
    above = 1 - np.cumsum(good, axis=1) / totals
    not_below = above + good / totals
    auroc = (_area(above, not_below, 1.0) * found).sum(axis=1) / found.sum(axis=1)
    pro = (_area(above, not_below, PRO_LIMIT) * overlaps).sum(axis=1) / overlaps.sum(axis=1)
    return np.stack([auroc, pro], axis=1)
