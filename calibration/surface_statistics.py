"""Finest features and tints of good parts -> their mean and covariance, of all parts and of all but a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.networks.deviations import Tint
from engines.networks.memory_tail import averaged
from engines.scoring import Floats, SurfaceConstants, region_masks
from engines.settings import CanvasSettings, RegionSettings

SHRINKAGE: Final = 0.1
"""Share of the identity in a correlation matrix: colours of a surface are nearly one direction, beside which noise in
hue would be blown up."""
LEAST_DEVIATION: Final = 1e-3
UNKNOWN: Final[tuple[Floats, Floats]] = (np.zeros(3, np.float32), np.ones(3, np.float32))
"""Units of cells before these have been seen."""
NOTHING: Final[tuple[Floats, Floats]] = (np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
"""Matrix and offset where there are no features."""


class SurfaceStatistics:
    """Sums over the cells that touch a region, group by group, so that any group can be left out."""

    def __init__(self, groups: int, canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> None:
        self._inside = torch.from_numpy(region_masks(canvas.height_px, canvas.width_px, regions).any(axis=0)).flatten()
        self._fine: list[_Moments | None] = [None] * groups
        self._tint: list[_Moments | None] = [None] * groups
        self._colours = Tint(0.0)

    def add(self, groups: NDArray[np.int64], finest: Tensor | None, planes: Tensor) -> None:
        """Images (N, 3, H, W), their finest level (N, C_1, H_1, W_1) if any, and the group of each, (N,)."""
        self._sum(self._tint, groups, self._colours(planes))
        if finest is not None:
            self._sum(self._fine, groups, averaged(finest))

    def _sum(self, moments: list[_Moments | None], groups: NDArray[np.int64], maps: Tensor) -> None:
        for group, each in zip(groups, maps, strict=True):
            moments[group] = _added(moments[group], each.flatten(1)[:, self._inside])

    def constants(self, without: int | None = None, units: tuple[Floats, Floats] = UNKNOWN) -> SurfaceConstants:
        """Of all groups but one; units: location and scale of cells of memory, fine (if any) and tint map."""
        tint = _whitening(_summed(self._tint, without))
        fine = _whitening(_summed(self._fine, without)) if any(self._fine) else NOTHING
        return SurfaceConstants(
            fine_matrix=fine[0],
            fine_offset=fine[1],
            tint_matrix=tint[0],
            tint_offset=tint[1],
            cell_location=units[0],
            cell_scale=units[1],
        )


class _Moments:
    """Count, sum (C,) and sum of products (C, C) of values, in float64."""

    def __init__(self, count: int, total: Tensor, products: Tensor) -> None:
        self.count, self.total, self.products = count, total, products


def _added(moments: _Moments | None, values: Tensor) -> _Moments:
    """With values (C, cells)."""
    wide = values.double()
    new = _Moments(wide.shape[1], wide.sum(dim=1), wide @ wide.T)
    return new if moments is None else _joined(moments, new)


def _joined(one: _Moments, other: _Moments) -> _Moments:
    return _Moments(one.count + other.count, one.total + other.total, one.products + other.products)


def _summed(moments: Sequence[_Moments | None], without: int | None) -> _Moments:
    total: _Moments | None = None
    for place, each in enumerate(moments):
        if each is not None and place != without:
            total = each if total is None else _joined(total, each)
    if total is None:
        raise ValueError("no group is left to take statistics from")
    return total


def _whitening(moments: _Moments) -> tuple[Floats, Floats]:
    """Symmetric inverse root (C, C) of the shrunk covariance, and offset (C,)."""
    mean = moments.total / moments.count
    covariance = moments.products / moments.count - torch.outer(mean, mean)
    deviation = covariance.diagonal().clamp_min(LEAST_DEVIATION**2).sqrt()
    correlation = covariance / deviation[:, None] / deviation
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * torch.eye(len(mean), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(shrunk)
    matrix = (vectors / values.clamp_min(SHRINKAGE / 10).sqrt()) @ vectors.T / deviation
    return matrix.float().numpy(), (-matrix @ mean).float().numpy()
