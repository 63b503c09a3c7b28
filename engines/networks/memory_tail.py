"""The tail for `score: memory`: maps of distances and deviations, read in up to three ways, in units of good parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blur import Blur
from engines.networks.deviations import Tint, Whitening
from engines.networks.memory import STRIDE
from engines.networks.outputs import NetworkOutputs
from engines.networks.region_maps import outside_regions, region_maxima
from engines.networks.tail import Scored
from engines.scoring import (
    LEVEL_STRIDE,
    READINGS,
    SMOOTHING_CELLS,
    MemoryConstants,
    SurfaceConstants,
)
from engines.settings import CanvasSettings, RegionSettings


class Surface(nn.Module):
    """Deviations of the finest features, averaged over 3x3 cells, and of the tint: (N, 1, H_1, W_1) each.

    Root mean square of whitened values, 1 on average over good parts: Mahalanobis distances to one mean for all places
    (PaDiM has one for each place), which a part that turns keeps.
    """

    def __init__(self, constants: SurfaceConstants) -> None:
        super().__init__()
        self.fine = Whitening(constants.fine_matrix, constants.fine_offset)
        self.colours = Tint(0.0)
        self.tint = Whitening(constants.tint_matrix, constants.tint_offset)

    def forward(self, outputs: NetworkOutputs) -> tuple[Tensor, Tensor]:
        """The two maps."""
        if outputs.finest is None:
            raise ValueError("the network gives no finest level")
        fine = self.fine(averaged(outputs.finest)).clamp_min(1e-6).sqrt()
        return fine, self.tint(self.colours(outputs.planes)).clamp_min(1e-6).sqrt()


def averaged(features: Tensor) -> Tensor:
    """Means over 3x3 cells of (N, C, H, W)."""
    return functional.avg_pool2d(features, 3, stride=1, padding=1)


class Readings(nn.Module):
    """Maps of a part -> (N, V, R), raw, in the order of `names`."""

    def __init__(self, canvas: CanvasSettings, regions: Sequence[RegionSettings], names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("outside", outside_regions(canvas, regions, STRIDE).float(), persistent=False)
        self.register_buffer("finely_outside", outside_regions(canvas, regions).float(), persistent=False)
        self.outside: Tensor
        self.finely_outside: Tensor

    def forward(self, distances: Tensor, surface: tuple[Tensor, Tensor] | None) -> Tensor:
        """distances: (N, 1, h, w) of the memory; surface: (N, 1, H_1, W_1) each, None where no reading needs them."""
        read = []
        for name in self.names:
            if name == READINGS[0]:
                read.append(region_maxima(distances[:, 0], self.outside))
            elif surface is not None:
                read.append(region_maxima(surface[READINGS.index(name) - 1][:, 0], self.finely_outside))
            else:
                raise ValueError(f"reading {name} needs the surface")
        return torch.stack(read, dim=1)


class MemoryTail(nn.Module):
    """A region's score is the highest of its readings, each in its units (docs/scores.md); the part's is the highest.

    The anomaly map is the sum of distances, fine deviations and tint, each in units of its rare cells, smoothed. Beside
    a student it is the distances alone, in the units of the highest cell averaged over regions.
    """

    def __init__(self, canvas: CanvasSettings, regions: Sequence[RegionSettings], constants: MemoryConstants) -> None:
        super().__init__()
        units, surface = constants.units, constants.surface
        self.read = Readings(canvas, regions, constants.readings)
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
        surface = None if self.surface is None else self.surface(outputs)
        regions = (self.read(outputs.unknown, surface) * self.gain - self.shift).amax(dim=1)
        cells = functional.interpolate(outputs.unknown, size=self.size, mode="bilinear", align_corners=False)
        if surface is not None:
            cells = torch.cat([cells, *surface], dim=1)
        total = (cells * self.cell_gain).sum(dim=1, keepdim=True) - self.cell_shift
        if surface is not None:
            total = self.blur(total)
        return regions.amax(dim=1), regions, total[:, 0]
