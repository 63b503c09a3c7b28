"""The tail for `score: memory`: the distance map of the memory, read in two ways, in units of good parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.outputs import NetworkOutputs
from engines.networks.region_maps import outside_regions, region_maxima, region_means, shares_of_cells
from engines.networks.tail import Scored
from engines.scoring import LEVEL_STRIDE, Units
from engines.settings import CanvasSettings, RegionSettings


class Readings(nn.Module):
    """A distance map (N, 1, h, w) -> (N, V, R): the highest cell of each region and, V = 2, its mean.

    cells: (h, w), which cover the whole canvas.
    """

    def __init__(
        self, canvas: CanvasSettings, regions: Sequence[RegionSettings], readings: int, cells: tuple[int, int]
    ) -> None:
        super().__init__()
        outside = outside_regions(canvas, regions, cells).float()
        self.readings = readings
        self.register_buffer("outside", outside, persistent=False)
        self.register_buffer("shares", shares_of_cells(outside), persistent=False)
        self.outside: Tensor
        self.shares: Tensor

    def forward(self, distances: Tensor) -> Tensor:
        """Raw readings, in the unit of the distances."""
        cells = distances[:, 0]
        read = [region_maxima(cells, self.outside)]
        if self.readings > 1:
            read.append(region_means(cells, self.shares))
        return torch.stack(read, dim=1)


class MemoryTail(nn.Module):
    """A region's score is the highest of its readings, each in its units (docs/scores.md).

    The anomaly map has the units of the first reading, averaged over regions. Where there is one region and no mean is
    unusual, the part score is therefore the highest cell, before the map is brought to its size. cells: rows and
    columns of the distance map.
    """

    def __init__(
        self, canvas: CanvasSettings, regions: Sequence[RegionSettings], units: Units, cells: tuple[int, int]
    ) -> None:
        super().__init__()
        self.read = Readings(canvas, regions, len(units.location), cells)
        self.size = (canvas.height_px // LEVEL_STRIDE, canvas.width_px // LEVEL_STRIDE)
        gain = torch.from_numpy(1.0 / units.scale)
        shift = torch.from_numpy(units.location / units.scale)
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.map_gain, self.map_shift = float(gain[0].mean()), float(shift[0].mean())
        self.gain: Tensor
        self.shift: Tensor

    def forward(self, outputs: NetworkOutputs) -> Scored:
        """Score one batch: part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""
        if outputs.unknown is None:
            raise ValueError("the network has no memory")
        regions = (self.read(outputs.unknown) * self.gain - self.shift).amax(dim=1)
        cells = functional.interpolate(outputs.unknown, size=self.size, mode="bilinear", align_corners=False)
        return regions.amax(dim=1), regions, cells[:, 0] * self.map_gain - self.map_shift
