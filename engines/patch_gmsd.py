"""Patch_GMSD (dtkd paper, Eq. 12-16): how differently two images change from pixel to pixel, patch by patch.

The geometry that reference, fused graph and kernels share, and the float64 reference itself. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.settings import PatchGmsdSettings, RegionSettings

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
GMS_C = 0.0026
"""c of GMS, for grey values in [0, 1]."""
GRADIENT_EPSILON = 1e-6
"""Under the root of the gradient magnitude: keeps float32 within 1e-5 of float64 where an image is flat."""
SMALLEST_SIDE = 3
"""Pixels that the last pyramid level leaves of the shorter patch side."""


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """How one region is cut at one scale: patches of `height` x `width` pixels, their first rows and columns."""

    height: int
    width: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def neighbours(self, row: int, column: int) -> list[tuple[int, int]]:
        """The up to eight patches around one, in reading order."""
        rows, columns = len(self.tops), len(self.lefts)
        return [
            (i, j)
            for i in range(max(row - 1, 0), min(row + 2, rows))
            for j in range(max(column - 1, 0), min(column + 2, columns))
            if (i, j) != (row, column)
        ]


def cut(start: int, length: int, count: int) -> tuple[int, tuple[int, ...]]:
    """Cut `length` pixels from `start` into `count` equal pieces: the piece's size, and where each begins.

    Where the length does not divide, pieces are rounded up and spread evenly, so that neighbours overlap by a pixel or
    two: every pixel of the region lies in a patch, no patch leaves the region, and all patches have one size.
    """
    size = -(-length // count)
    if count == 1:
        return size, (start,)
    return size, tuple(start + (index * (length - size)) // (count - 1) for index in range(count))


def patch_grids(region: RegionSettings) -> tuple[PatchGrid, ...]:
    """The grids of one region, one per scale j of Eq. 14, the finest first."""
    grids = []
    for rows, columns in region.patches:
        height, tops = cut(region.top_px, region.height_px, rows)
        width, lefts = cut(region.left_px, region.width_px, columns)
        grids.append(PatchGrid(height, width, tops, lefts))
    return tuple(grids)


def pyramid(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Sizes of the average-pooled pyramid of a patch: halved, odd pixels dropped, while 3 pixels remain a side."""
    sizes = [(height, width)]
    while min(sizes[-1]) // 2 >= SMALLEST_SIDE:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return tuple(sizes)


def pool(values: Array) -> Array:
    """Average pairs along the first axis; an odd last one is dropped."""
    half = values.shape[0] // 2
    pooled: Array = (values[0 : 2 * half : 2] + values[1 : 2 * half : 2]) / 2
    return pooled


def smooth(values: Array) -> Array:
    """Mean of three along the first axis, edges repeated: one side of the Prewitt operator."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    smoothed: Array = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return smoothed


def difference(values: Array) -> Array:
    """Next minus previous along the first axis, edges repeated: the other side of the Prewitt operator."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    slopes: Array = padded[2:] - padded[:-2]
    return slopes


def upsample(values: Array, length: int) -> Array:
    """Linear interpolation along the first axis to `length`, pixel centres aligned (align_corners=False)."""
    count = values.shape[0]
    position = np.clip((np.arange(length) + 0.5) * count / length - 0.5, 0, count - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, count - 1)
    share = (position - low).reshape(-1, *[1] * (values.ndim - 1))
    upsampled: Array = values[low] * (1 - share) + values[high] * share
    return upsampled


def gradient_magnitude(patch: Array) -> Array:
    """g = sqrt(gx^2 + gy^2 + epsilon) of a grey patch (h, w) in [0, 1], Prewitt 3x3 divided by 3, edges repeated."""
    across = difference(smooth(patch).T).T
    down = difference(smooth(patch.T).T)
    return np.sqrt(across**2 + down**2 + GRADIENT_EPSILON)


def msgms(first: Array, second: Array) -> Array:
    """Multi-scale gradient magnitude similarity of two equal patches (h, w): (h, w) in (0, 1], 1 where alike."""
    height, width = first.shape
    total = np.zeros_like(first)
    sizes = pyramid(height, width)
    for level in range(len(sizes)):
        if level:
            first, second = (pool(pool(patch).T).T for patch in (first, second))
        a, b = gradient_magnitude(first), gradient_magnitude(second)
        similarity = (2 * a * b + GMS_C) / (a**2 + b**2 + GMS_C)
        total += upsample(upsample(similarity, height).T, width).T
    return total / len(sizes)


def msgmsd(first: Array, second: Array) -> float:
    """Eq. 16: the population standard deviation of MSGMS over the patch."""
    return float(msgms(first, second).std())


def msgms_loss(first: Array, second: Array) -> float:
    """1 - the mean of MSGMS over the patch: what the paper's baseline takes in place of Eq. 16."""
    return float(1 - msgms(first, second).mean())


def patch_scores(image: Array, reconstruction: Array, grid: PatchGrid, settings: PatchGmsdSettings) -> Array:
    """Eq. 15: a patch's least distance to its reconstruction and to its neighbours; (rows, columns)."""

    def patch(source: Array, row: int, column: int) -> Array:
        top, left = grid.tops[row], grid.lefts[column]
        return source[top : top + grid.height, left : left + grid.width]

    measure = msgmsd if settings.measure == "deviation" else msgms_loss
    others = image if settings.neighbours_from == "image" else reconstruction
    scores = np.zeros((len(grid.tops), len(grid.lefts)))
    for row, column in np.ndindex(scores.shape):
        own = patch(image, row, column)
        distances = [measure(own, patch(reconstruction, row, column))]
        if settings.neighbours:
            distances += [measure(own, patch(others, i, j)) for i, j in grid.neighbours(row, column)]
        scores[row, column] = min(distances)
    return scores


def nearest(count: int, target: int) -> Indices:
    """Which of `count` cells covers each of `target` cells of the first scale's grid (nearest neighbour)."""
    return ((np.arange(target) * 2 + 1) * count // (2 * target)).astype(np.int64)


def patch_gmsd(
    image: Array, reconstruction: Array, regions: Sequence[RegionSettings], settings: PatchGmsdSettings
) -> Array:
    """Patch_GMSD_r of each region, before lambda_r (Eq. 14): (R,) float64, 0 for a region without patches.

    `image` and `reconstruction` are grey (H, W) in [0, 1]. A coarse scale's patch score counts for each patch of the
    first scale that its cell covers (nearest-neighbour upsampling).
    """
    result = np.zeros(len(regions))
    for index, region in enumerate(regions):
        grids = patch_grids(region)
        if not grids:
            continue
        rows, columns = len(grids[0].tops), len(grids[0].lefts)
        total = np.zeros((rows, columns))
        for grid in grids:
            scores = patch_scores(image, reconstruction, grid, settings)
            total += scores[np.ix_(nearest(len(grid.tops), rows), nearest(len(grid.lefts), columns))]
        result[index] = total.max()
    return result


def compared_pairs(grids: Sequence[PatchGrid], settings: PatchGmsdSettings) -> tuple[Indices, Indices, Indices]:
    """Which patches Eq. 15 compares: first and second of each pair, and per patch the nine pairs to choose from.

    Patches of the image come first, those of the reconstruction `count` later. Between patches of the image the
    distance is symmetric, so each such pair is computed once. Missing neighbours repeat the first pair.
    """
    count = sum(len(grid.tops) * len(grid.lefts) for grid in grids)
    pairs: dict[tuple[int, int], int] = {(patch, count + patch): patch for patch in range(count)}
    choices = np.repeat(np.arange(count)[:, None], 9 if settings.neighbours else 1, axis=1)
    start = 0
    for grid in grids:
        columns = len(grid.lefts)
        for row, column in np.ndindex(len(grid.tops), columns):
            own = start + row * columns + column
            neighbours = grid.neighbours(row, column) if settings.neighbours else []
            for slot, (i, j) in enumerate(neighbours, start=1):
                other = start + i * columns + j
                pair = (min(own, other), max(own, other))
                if settings.neighbours_from == "reconstruction":
                    pair = (own, count + other)
                choices[own, slot] = pairs.setdefault(pair, len(pairs))
        start += len(grid.tops) * columns
    first, second = np.array(list(pairs), dtype=np.int64).T
    return np.ascontiguousarray(first), np.ascontiguousarray(second), choices


def summed_patches(
    regions: int, grids: Sequence[tuple[int, PatchGrid]], first_patch: dict[int, int], nothing: int
) -> Indices:
    """Which patch scores Eq. 14 adds up: (R, M, J) positions, `nothing` where a region has fewer patches or scales."""
    own = [[grid for index, grid in grids if index == region] for region in range(regions)]
    most = max(len(found[0].tops) * len(found[0].lefts) if found else 1 for found in own)
    scales = max(len(found) for found in own)
    terms = np.full((regions, most, max(scales, 1)), nothing, dtype=np.int64)
    for region, found in enumerate(own):
        for scale, grid in enumerate(found):
            rows, columns = len(found[0].tops), len(found[0].lefts)
            down = nearest(len(grid.tops), rows)[:, None] * len(grid.lefts)
            terms[region, : rows * columns, scale] = (
                first_patch[id(grid)] + down + nearest(len(grid.lefts), columns)
            ).reshape(-1)
    return terms
