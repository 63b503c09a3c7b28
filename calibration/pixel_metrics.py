"""Anomaly maps and masks -> pixel AUROC and PRO, with intervals over parts; evaluate.py feeds it.

Both are areas under a curve over the false-positive rate, so both follow from one thing: which share of the good pixels
lies above each defective one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.map_store import scratch

Doubles = NDArray[np.float64]
Maps = NDArray[np.float32]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]
PRO_LIMIT = 0.3
AT_ONCE = 64
"""Images whose bins are held together: 100 kB each."""
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
    maps: Sequence[Maps] | Maps,
    masks: Sequence[Bools] | Bools,
    inside: Bools,
    *,
    parts: NDArray[np.int64] | None = None,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> PixelFigures:
    """Pixel AUROC and PRO of N images; blocks, for seconds where there are hundreds.

    maps: N of (H, W) float32, masks: N of (H, W) true on defects; they are looked at one by one, all good pixels are
    sorted on disk: memory holds some images and the defective pixels. inside: (H, W) true where pixels count. parts:
    (N,) the part that each image shows, 0 to P - 1; None: one each.
    PRO: Bergmann et al. 2021 (IJCV 129), as in MVTec's own evaluation: the mean over all connected (8) defect areas of
    the share of the area's pixels above a cut, against FP / (FP + TN) over all good pixels; every value is a cut, lines
    between are straight; integrated from 0 to PRO_LIMIT and divided by it. AUROC counts ties half.
    Intervals: whole parts are drawn again, those with defective pixels and those without apart; the same seed draws the
    same. Raises CalibrationError unless there are good and defective pixels.
    """
    owners, values, shares, good = _sorted_apart(maps, masks, inside)
    above = 1 - np.searchsorted(good, values, "right") / len(good)
    not_below = 1 - np.searchsorted(good, values, "left") / len(good)
    auroc = float(_area(above, not_below, 1.0).mean())
    pro = float((_area(above, not_below, PRO_LIMIT) * shares).sum() / shares.sum())
    edges = _bin_edges(good)
    owning = np.arange(len(maps)) if parts is None else parts
    marked = np.bincount(owners, minlength=len(maps)) > 0
    counts = _drawn_images(marked, owning, resamples, np.random.default_rng(seed))
    places = np.searchsorted(edges, values, "right")
    drawn = _areas(*_drawn_tables(counts, maps, masks, inside, edges, owners, places, shares))
    lows, highs = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).tolist()
    return PixelFigures(auroc, (lows[0], highs[0]), pro, (lows[1], highs[1]))


def _drawn_tables(  # noqa: PLR0917  (what is drawn, and of what)
    counts: Doubles,
    maps: Sequence[Maps] | Maps,
    masks: Sequence[Bools] | Bools,
    inside: Bools,
    edges: Maps,
    owners: NDArray[np.int64],
    places: NDArray[np.int64],
    shares: Doubles,
) -> tuple[Doubles, Doubles, Doubles]:
    """Good pixels, defective pixels and shares of areas by bin of values, (R, B) each, of the images as drawn (R, N).

    owners, places, shares: of each defective pixel, its image, its bin and its share. AT_ONCE images are looked at
    together.
    """
    tables = tuple(np.zeros((len(counts), len(edges) + 1)) for _ in range(3))
    for first in range(0, len(maps), AT_ONCE):
        some = range(first, min(first + AT_ONCE, len(maps)))
        good_bins, found, overlaps = (np.zeros((len(some), len(edges) + 1)) for _ in range(3))
        for bins, number in zip(good_bins, some, strict=True):
            ordered = np.sort(maps[number][inside & ~masks[number]])
            bins[:] = np.diff(np.searchsorted(ordered, edges, "left"), prepend=0, append=len(ordered))
        chosen = (owners >= some.start) & (owners < some.stop)
        where = (owners[chosen] - first, places[chosen])
        np.add.at(found, where, 1.0)
        np.add.at(overlaps, where, shares[chosen])
        for table, bins_of in zip(tables, (good_bins, found, overlaps), strict=True):
            table[:] += counts[:, some.start : some.stop] @ bins_of
    return tables  # type: ignore[return-value]


def _sorted_apart(
    maps: Sequence[Maps] | Maps, masks: Sequence[Bools] | Bools, inside: Bools
) -> tuple[NDArray[np.int64], Maps, Doubles, Maps]:
    """Of each defective pixel: its image's number, its value, and its share of its connected area, all (D,); and the
    values of all good pixels in order, (G,), on disk.

    Raises CalibrationError unless there are both.
    """
    defective = [int(np.count_nonzero(mask & inside)) for mask in masks]
    good = scratch(int(inside.sum()) * len(masks) - sum(defective))
    if not len(good) or not any(defective):
        raise CalibrationError("pixel figures need both good and defective pixels")
    owners, values, shares = [], [], []
    filled = 0
    for number, (one_map, mask) in enumerate(zip(maps, masks, strict=True)):
        chosen = one_map[inside & ~mask]
        good[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
        if not defective[number]:
            continue
        counted = mask & inside
        _, labels = cv2.connectedComponents(counted.astype(np.uint8), connectivity=8)
        area = labels[counted]
        owners.append(np.full(len(area), number))
        values.append(np.array(one_map[counted]))
        shares.append(1.0 / np.bincount(area)[area])
    good.sort()
    return np.concatenate(owners), np.concatenate(values), np.concatenate(shares), good


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
