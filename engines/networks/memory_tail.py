"""The tail for `score: memory`: maps of distances and deviations, read in one way or two, in units of good parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blur import Blur
from engines.networks.deviations import Tint, Whitening
from engines.networks.outputs import NetworkOutputs
from engines.networks.region_maps import outside_regions, region_maxima, region_means
from engines.networks.tail import Scored
from engines.scoring import (
    FINE,
    HIGHEST,
    LEVEL_STRIDE,
    MEAN,
    READINGS,
    SMOOTHING_CELLS,
    TINT,
    MemoryConstants,
    SurfaceConstants,
)
from engines.settings import CanvasSettings, RegionSettings


class Surface(nn.Module):
    """Deviations of the finest features, averaged over 3x3 cells, where there are any, and of the tint.

    Root mean square of whitened values, 1 on average over good parts: Mahalanobis distances to one mean for all places
    (PaDiM has one for each place), which a part that turns keeps.
    """

    def __init__(self, constants: SurfaceConstants) -> None:
        super().__init__()
        fine = len(constants.fine_offset) > 0
        self.fine = Whitening(constants.fine_matrix, constants.fine_offset) if fine else None
        self.colours = Tint(0.0)
        self.tint = Whitening(constants.tint_matrix, constants.tint_offset)

    def forward(self, outputs: NetworkOutputs) -> dict[str, Tensor]:
        """Maps (N, 1, H_1, W_1) by their name, FINE before TINT."""
        squares = {}
        if self.fine is not None:
            if outputs.finest is None:
                raise ValueError("the network gives no finest level")
            squares[FINE] = self.fine(averaged(outputs.finest))
        squares[TINT] = self.tint(self.colours(outputs.planes))
        return {name: square.clamp_min(1e-6).sqrt() for name, square in squares.items()}


def averaged(features: Tensor) -> Tensor:
    """Means over 3x3 cells of (N, C, H, W)."""
    return functional.avg_pool2d(features, 3, stride=1, padding=1)


class Readings(nn.Module):
    """Distance maps of parts -> (N, V, R), raw, in the order of `names`. cells: (h, w) of the map."""

    def __init__(
        self, canvas: CanvasSettings, regions: Sequence[RegionSettings], names: Sequence[str], cells: tuple[int, int]
    ) -> None:
        """Raises ValueError for a name that is not of READINGS."""
        super().__init__()
        if unknown := set(names) - set(READINGS):
            raise ValueError(f"reading {min(unknown)} is of another version")
        self.names = tuple(names)
        self.register_buffer("outside", outside_regions(canvas, regions, cells).float(), persistent=False)
        self.outside: Tensor

    def forward(self, distances: Tensor) -> Tensor:
        """distances: (N, 1, h, w) of the memory."""
        maps = distances[:, 0]
        ways = {HIGHEST: region_maxima, MEAN: region_means}
        return torch.stack([ways[name](maps, self.outside) for name in self.names], dim=1)


class MemoryTail(nn.Module):
    """A region's score is the highest of its readings, each in its units (docs/scores.md); the part's is the highest.

    The anomaly map is the sum of distances, fine deviations and tint, each in units of its rare cells, smoothed. Beside
    a student it is the distances alone, in the units of the highest cell averaged over regions. grid: rows and columns
    of the distances.
    """

    def __init__(
        self,
        canvas: CanvasSettings,
        regions: Sequence[RegionSettings],
        constants: MemoryConstants,
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        units, surface = constants.units, constants.surface
        self.read = Readings(canvas, regions, constants.readings, grid)
        self.surface = None if surface is None else Surface(surface)
        self.blur = Blur(SMOOTHING_CELLS)
        self.size = (canvas.height_px // LEVEL_STRIDE, canvas.width_px // LEVEL_STRIDE)
        gain = torch.from_numpy(1.0 / units.scale)
        shift = torch.from_numpy(units.location / units.scale)
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        if surface is None:
            cell_gain, cell_shift = gain[0].mean().reshape(1), shift[0].mean()
        else:
            cell_gain = torch.from_numpy(1.0 / surface.cell_scale)
            cell_shift = torch.from_numpy(surface.cell_location / surface.cell_scale).sum()
        self.register_buffer("cell_gain", cell_gain[:, None, None], persistent=False)
        self.cell_shift = float(cell_shift)
        self.gain: Tensor
        self.shift: Tensor
        self.cell_gain: Tensor

    def forward(self, outputs: NetworkOutputs) -> Scored:
        """Score one batch: part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""
        if outputs.unknown is None:
            raise ValueError("the network has no memory")
        surface = {} if self.surface is None else self.surface(outputs)
        regions = (self.read(outputs.unknown) * self.gain - self.shift).amax(dim=1)
        cells = functional.interpolate(outputs.unknown, size=self.size, mode="bilinear", align_corners=False)
        if surface:
            cells = torch.cat([cells, *surface.values()], dim=1)
        total = (cells * self.cell_gain).sum(dim=1, keepdim=True) - self.cell_shift
        if surface:
            total = self.blur(total)
        return regions.amax(dim=1), regions, total[:, 0]
