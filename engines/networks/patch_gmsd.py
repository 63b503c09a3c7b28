"""Patch_GMSD inside the fused graph: the same formula as `engines.patch_gmsd`, over all patches of one size at once.

Cutting is one gather; pooling and the Prewitt operator are matrices from left and right, for all levels together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engines.patch_gmsd import (
    GMS_C,
    GRADIENT_EPSILON,
    Indices,
    PatchGrid,
    compared_pairs,
    difference,
    patch_grids,
    pool,
    pyramid,
    smooth,
    summed_patches,
)
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings


class PatchGmsd(nn.Module):
    """Patch_GMSD_r of each region, before lambda_r (Eq. 14-16)."""

    def __init__(self, canvas: CanvasSettings, regions: Sequence[RegionSettings], settings: PatchGmsdSettings) -> None:
        super().__init__()
        grids = [(region, grid) for region, patched in enumerate(regions) for grid in patch_grids(patched)]
        sizes = sorted({(grid.height, grid.width) for _, grid in grids})
        groups = [[entry for entry in grids if (entry[1].height, entry[1].width) == size] for size in sizes]
        self.groups = nn.ModuleList(
            [_SamePatches(canvas.width_px, [grid for _, grid in group], settings) for group in groups]
        )
        first_patch: dict[int, int] = {}  # id of a grid -> position of its first score in the concatenated groups
        position = 0
        for group in groups:
            for _, grid in group:
                first_patch[id(grid)] = position
                position += len(grid.tops) * len(grid.lefts)
        self.register_buffer(
            "terms", torch.from_numpy(summed_patches(len(regions), grids, first_patch, position)), persistent=False
        )
        self.terms: Tensor

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Map grey (N, H, W) and its reconstruction, both in [0, 1], to (N, R)."""
        both = torch.stack([image, reconstruction], dim=1).flatten(2)  # N, 2, H * W
        scores = [group(both) for group in self.groups]
        nothing = torch.zeros_like(both[:, 0, :1])
        every = torch.cat([*scores, nothing], dim=1)  # N, patches + 1
        return every[:, self.terms].sum(dim=3).amax(dim=2)  # N, R, M, J -> N, R


class _SamePatches(nn.Module):
    """Patch scores (Eq. 15) of all patches of one size, in the order of their grids, each in reading order."""

    def __init__(self, canvas_width: int, grids: Sequence[PatchGrid], settings: PatchGmsdSettings) -> None:
        super().__init__()
        self.height, self.width = grids[0].height, grids[0].width
        self.sizes = pyramid(self.height, self.width)
        self.by_deviation = settings.measure == "deviation"
        places = [(top, left) for grid in grids for top in grid.tops for left in grid.lefts]
        self.count = len(places)
        rows = np.array([top for top, _ in places])[:, None, None] + np.arange(self.height)[:, None]
        columns = np.array([left for _, left in places])[:, None, None] + np.arange(self.width)
        first, second, choices = compared_pairs(grids, settings)
        constants: dict[str, NDArray[np.generic]] = {
            "pixels": (rows * canvas_width + columns).reshape(-1),
            "from_left": _operators(self.height, len(self.sizes)).astype(np.float32),
            "from_right": np.ascontiguousarray(_operators(self.width, len(self.sizes)).T).astype(np.float32),
            "gradients": _gradient_places(self.sizes),
            "first": first,
            "second": second,
            "choices": choices,
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)
        self.pixels: Tensor
        self.from_left: Tensor
        self.from_right: Tensor
        self.gradients: Tensor
        self.first: Tensor
        self.second: Tensor
        self.choices: Tensor

    def forward(self, both: Tensor) -> Tensor:
        """Map image and reconstruction (N, 2, H * W) to patch scores (N, patches)."""
        batch = both.shape[0]
        patches = both[:, :, self.pixels].reshape(batch, 2 * self.count, self.height, self.width)
        responses = torch.matmul(torch.matmul(self.from_left, patches), self.from_right).flatten(2)
        slopes = responses[:, :, self.gradients]  # N, 2 * patches, 2, sum of h_l * w_l
        magnitude = torch.sqrt(slopes.square().sum(dim=2) + GRADIENT_EPSILON)
        one, other = magnitude[:, self.first], magnitude[:, self.second]  # N, pairs, sum of h_l * w_l
        unlike = (one - other).square() / (one.square() + other.square() + GMS_C)  # 1 - GMS
        mean = self._mean_over_levels(unlike)
        distance = mean.mean(dim=2)
        if self.by_deviation:
            distance = torch.sqrt((mean - distance.unsqueeze(2)).square().mean(dim=2))
        return distance[:, self.choices].amin(dim=2)  # N, patches, 9 -> N, patches

    def _mean_over_levels(self, values: Tensor) -> Tensor:
        """Upsample each level of (N, pairs, sum of h_l * w_l) to the patch and average: (N, pairs, h * w)."""
        start = self.height * self.width
        total = values[:, :, :start]
        for height, width in self.sizes[1:]:
            level = values[:, :, start : start + height * width].reshape(*values.shape[:2], height, width)
            full = functional.interpolate(level, size=(self.height, self.width), mode="bilinear", align_corners=False)
            total = total + full.flatten(2)
            start += height * width
        return total * (1.0 / len(self.sizes))


def _operators(length: int, levels: int) -> NDArray[np.float64]:
    """Rows of all levels' smoothing, then of all levels' difference, after pooling: (2 * sum of lengths, length)."""

    def of_each_level(operator: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        pooled, rows = np.eye(length), []
        for level in range(levels):
            pooled = pool(pooled) if level else pooled
            rows.append(operator(pooled))
        return rows

    return np.concatenate([*of_each_level(smooth), *of_each_level(difference)])


def _gradient_places(sizes: Sequence[tuple[int, int]]) -> Indices:
    """Where gx and gy of each level lie in the flattened product of both operators: (2, sum of h_l * w_l)."""
    all_rows, all_columns = (sum(size[axis] for size in sizes) for axis in (0, 1))
    row_starts = np.cumsum([0, *(height for height, _ in sizes)])
    column_starts = np.cumsum([0, *(width for _, width in sizes)])
    across, down = [], []
    for level, (height, width) in enumerate(sizes):
        rows = row_starts[level] + np.arange(height)[:, None]
        columns = column_starts[level] + np.arange(width)
        across.append((rows * 2 * all_columns + all_columns + columns).reshape(-1))  # smoothed down, difference across
        down.append(((rows + all_rows) * 2 * all_columns + columns).reshape(-1))  # difference down, smoothed across
    return np.stack([np.concatenate(across), np.concatenate(down)])
