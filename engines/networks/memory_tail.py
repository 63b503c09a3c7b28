"""The tail for `score: memory`: maps of distances and deviations, read in up to four ways, in units of good parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        """Maps (N, 1, H_1, W_1) by the name of their reading, in the order of READINGS."""
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
    """Maps of a part -> (N, V, R), raw, in the order of `names`. cells: (h, w) of the memory's map."""

    def __init__(
        self, canvas: CanvasSettings, regions: Sequence[RegionSettings], names: Sequence[str], cells: tuple[int, int]
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("outside", outside_regions(canvas, regions, cells).float(), persistent=False)
        self.register_buffer("finely_outside", outside_regions(canvas, regions).float(), persistent=False)
        self.outside: Tensor
        self.finely_outside: Tensor

    def forward(self, distances: Tensor, surface: Mapping[str, Tensor]) -> Tensor:
        """distances: (N, 1, h, w) of the memory; surface: (N, 1, H_1, W_1) for FINE and TINT, by their names."""
        return torch.stack([self._read(name, distances, surface) for name in self.names], dim=1)

    def _read(self, name: str, distances: Tensor, surface: Mapping[str, Tensor]) -> Tensor:
        if name == HIGHEST:
            return region_maxima(distances[:, 0], self.outside)
        if name == MEAN:
            return region_means(distances[:, 0], self.outside)
        return region_maxima(surface[name][:, 0], self.finely_outside)


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
        regions = (self.read(outputs.unknown, surface) * self.gain - self.shift).amax(dim=1)
        cells = functional.interpolate(outputs.unknown, size=self.size, mode="bilinear", align_corners=False)
        if surface:
            cells = torch.cat([cells, *surface.values()], dim=1)
        total = (cells * self.cell_gain).sum(dim=1, keepdim=True) - self.cell_shift
        if surface:
            total = self.blur(total)
        return regions.amax(dim=1), regions, total[:, 0]
