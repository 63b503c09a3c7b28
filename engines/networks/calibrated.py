"""The tail for `score: calibrated` (docs/scores.md): whitened residuals of teachers against student, plus the tint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blur import Blur
from engines.networks.deviations import Tint, Whitening
from engines.networks.memory_tail import MemoryTail
from engines.networks.outputs import NetworkOutputs
from engines.networks.patch_gmsd import PatchGmsd
from engines.networks.region_maps import RegionBlur, outside_regions, region_maxima
from engines.preprocess import to_grey
from engines.scoring import (
    DETAIL_SIGMAS_PX,
    DETAIL_SURROUND_PX,
    DETAIL_WEIGHT,
    DISCRIMINATOR_WEIGHT,
    LEVEL_STRIDE,
    PATCH_WEIGHT,
    SMOOTHING_CELLS,
    WIDE_SHARE,
    CalibratedConstants,
    Floats,
    ScoringConstants,
    Units,
)
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import memory_grid


class Details(nn.Module):
    """Grey levels under narrow Gaussians minus those under a wide one: what small spots change, per scale."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.ModuleList([Blur(sigma) for sigma in DETAIL_SIGMAS_PX])
        self.wide = Blur(DETAIL_SURROUND_PX / LEVEL_STRIDE)

    def forward(self, planes: Tensor) -> Tensor:
        """Map planes (N, 3, H, W) to (N, S, H, W), in grey levels."""
        grey = 255.0 * to_grey(planes).unsqueeze(1)
        around = self.wide(functional.avg_pool2d(grey, LEVEL_STRIDE))
        around = functional.interpolate(around, size=grey.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([blur(grey) for blur in self.narrow], dim=1) - around


class DetailDistance(nn.Module):
    """How far the details of each pixel are from those of good parts at this very pixel; the worst scale and pixel."""

    def __init__(self, mean: Floats, gain: Floats) -> None:
        super().__init__()
        self.details = Details()
        self.register_buffer("mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("gain", torch.from_numpy(gain), persistent=False)
        self.mean: Tensor
        self.gain: Tensor

    def forward(self, planes: Tensor) -> Tensor:
        """Map planes (N, 3, H, W) to (N, 1, H / 4, W / 4), in squared deviations."""
        distance = ((self.details(planes) - self.mean) * self.gain).square().amax(dim=1, keepdim=True)
        return functional.max_pool2d(distance, LEVEL_STRIDE)


class ComponentMaps(nn.Module):
    """Distance maps of levels, tint and detail, and logits; all at the size of level one."""

    def __init__(self, constants: CalibratedConstants) -> None:
        super().__init__()
        pairs = zip(constants.whitening, constants.offsets, strict=True)
        self.whitenings = nn.ModuleList([Whitening(matrix, offset) for matrix, offset in pairs])
        self.tint = Tint(float(constants.surround[0]))
        self.register_buffer("tint_mean", torch.from_numpy(constants.tint_mean), persistent=False)
        self.tint_mean: Tensor
        canonical = len(constants.detail_mean) > 0
        self.detail = DetailDistance(constants.detail_mean, constants.detail_gain) if canonical else None

    def forward(self, outputs: NetworkOutputs) -> Tensor:
        """(N, C, H_1, W_1)."""
        residuals = [t - s for t, s in zip(outputs.targets, outputs.imitations, strict=True)]
        residuals.append(self.tint(outputs.planes) - self.tint_mean)
        size = residuals[-1].shape[2:]  # the tint's: level one may be left out
        maps = []
        for whitening, residual in zip(self.whitenings, residuals, strict=True):
            maps.append(_resized(whitening(residual), size))
        if self.detail is not None:
            maps.append(self.detail(outputs.planes))
        if outputs.defects is not None:
            maps.append(outputs.defects)
        return torch.cat(maps, dim=1)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class Maps(NamedTuple):
    """What one batch looks like, cell by cell; all (N, H_1, W_1), about 0 on good parts.

    total: the anomaly map. features: the same without the discriminator's share, None where there is no discriminator.
    """

    total: Tensor
    features: Tensor | None


class AnomalyMap(nn.Module):
    """Component maps, each in units of its own worst cell on a good part, as one map.

    Features and tint are summed and smoothed; DETAIL_WEIGHT times the detail and DISCRIMINATOR_WEIGHT times the
    discriminator's logit are added as they are: smoothing would hide what is small.
    """

    def __init__(self, constants: CalibratedConstants) -> None:
        super().__init__()
        self.components = ComponentMaps(constants)
        self.blur = Blur(SMOOTHING_CELLS)
        self.smoothed = len(constants.whitening)
        self.register_buffer("gain", torch.from_numpy(constants.gain), persistent=False)
        self.register_buffer("offset", torch.from_numpy(constants.location * constants.gain), persistent=False)
        self.gain: Tensor
        self.offset: Tensor

    def forward(self, outputs: NetworkOutputs) -> Maps:
        """The maps of one batch."""
        return self.joined(self.components(outputs) * self.gain - self.offset, outputs)

    def joined(self, maps: Tensor, outputs: NetworkOutputs) -> Maps:
        """Component maps (N, C, H_1, W_1) at one scale, of such outputs, as one map."""
        total = self.blur(maps[:, : self.smoothed].sum(dim=1, keepdim=True))[:, 0]
        if self.components.detail is not None:
            total = total + DETAIL_WEIGHT * maps[:, self.smoothed]
        if outputs.defects is None:
            return Maps(total, None)
        return Maps(total + DISCRIMINATOR_WEIGHT * maps[:, -1], total)


class Views(nn.Module):
    """Highest cells of each region in each view of a part: what is unusual shows in one of them more than in others.

    The anomaly map; where parts lie in no pose also the map without the discriminator's share, for defects unlike those
    that were drawn for it, and both under a wide Gaussian, for what is faint but extended. The Gaussian is a mean over
    the region's own cells: what lies beside it is another's, or nobody's.
    """

    def __init__(self, outside: Tensor, height: int, width: int, *, posed: bool) -> None:
        """outside: (R, height * width), as in `region_maxima`, for maps of so many cells."""
        super().__init__()
        self.register_buffer("outside", outside, persistent=False)
        self.outside: Tensor
        sigma = max(1.0, WIDE_SHARE * min(height, width))
        self.wide = None if posed else RegionBlur(outside, height, width, sigma)

    def forward(self, maps: Maps) -> Tensor:
        """(N, V, R)."""
        highest = [region_maxima(maps.total, self.outside)]
        if self.wide is not None:
            views = [maps.total] if maps.features is None else [maps.total, maps.features]
            highest += [region_maxima(view, self.outside) for view in views[1:]]
            for view in views:
                highest.append(self.wide(view))
        return torch.stack(highest, dim=1)


class CalibratedTail(nn.Module):
    """`score: calibrated`: a region's score is its highest cell in deviations over good parts, in the worst view of it.

    With a memory a region's score is the higher of that and the memory's, each in its units over good parts: one that
    is sure is not drowned by the other's noise, as it would be in a sum. With a decoder PATCH_WEIGHT times lambda_r *
    Patch_GMSD_r, in deviations likewise, are added. The part score is the highest region score.
    """

    def __init__(
        self,
        model: ModelSettings,
        canvas: CanvasSettings,
        regions: Sequence[RegionSettings],
        constants: ScoringConstants,
    ) -> None:
        """Raises ValueError where constants.calibrated is missing: what was fitted is another score."""
        super().__init__()
        fitted = constants.calibrated
        if fitted is None:
            raise ValueError("score: calibrated needs constants fitted to good parts (calibration.fit_scores)")
        self.anomaly_map = AnomalyMap(fitted)
        self.patch_gmsd = PatchGmsd(canvas, regions, model.patch_gmsd) if model.decoder else None
        remembered = constants.memory
        grid = memory_grid(model.teachers[0], canvas)
        self.memory = None if remembered is None else MemoryTail(canvas, regions, remembered, grid)
        outside = outside_regions(canvas, regions)
        height, width = canvas.height_px // LEVEL_STRIDE, canvas.width_px // LEVEL_STRIDE
        self.views = Views(outside, height, width, posed=len(fitted.region_location) == 1)
        nothing = np.zeros((1, len(regions)), np.float32)
        units = constants.student or Units(nothing, nothing + 1)
        scale = fitted.region_scale * units.scale
        location = fitted.region_location + units.location * fitted.region_scale
        patch_factor = PATCH_WEIGHT / (fitted.patch_scale * units.scale[0])
        for name, value in (
            ("scale", torch.from_numpy(1.0 / scale)),
            ("shift", torch.from_numpy(location / scale)),
            ("patch_factor", torch.from_numpy(patch_factor) * torch.tensor(constants.lambdas)),
            ("patch_shift", torch.from_numpy(fitted.patch_location * patch_factor)),
        ):
            self.register_buffer(name, value.float(), persistent=False)
        # The map has the units of its own highest cell, where a memory's map stands beside it.
        beside = constants.memory is not None
        self.map_gain = float(1.0 / scale[0].mean()) if beside else 1.0
        self.map_shift = float((location[0] / scale[0]).mean()) if beside else 0.0
        self.scale: Tensor
        self.shift: Tensor
        self.patch_factor: Tensor
        self.patch_shift: Tensor

    def forward(self, outputs: NetworkOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Score one batch: part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""
        regions, cells = self.features(outputs)
        if self.memory is not None and outputs.unknown is not None:
            _, remembered, distances = self.memory(outputs)
            regions, cells = torch.maximum(regions, remembered), torch.maximum(cells, distances)
        if self.patch_gmsd is not None and outputs.reconstruction is not None:
            gmsd = self.patch_gmsd(outputs.grey, outputs.reconstruction)
            regions = (regions - self.patch_shift) + self.patch_factor * gmsd
        return regions.amax(dim=1), regions, cells

    def features(self, outputs: NetworkOutputs) -> tuple[Tensor, Tensor]:
        """Region scores (N, R) and map (N, H_1, W_1) of the student's deviations alone: no memory, no Patch_GMSD."""
        maps = self.anomaly_map(outputs)
        regions = (self.views(maps) * self.scale - self.shift).amax(dim=1)
        return regions, maps.total * self.map_gain - self.map_shift
