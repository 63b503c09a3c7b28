"""Outputs on good parts that the networks had not seen -> the constants of `score: calibrated` (docs/scores.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calibration.cell_statistics import SMALLEST_DEVIATION, CellStatistics
from calibration.surface import in_canonical_pose
from engines.networks.blur import Blur
from engines.networks.calibrated import (
    AnomalyMap,
    ComponentMaps,
    Details,
    Views,
)
from engines.networks.deviations import Tint
from engines.networks.outputs import NetworkOutputs
from engines.networks.region_maps import outside_regions
from engines.scoring import CalibratedConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings

Doubles = NDArray[np.float64]
SHRINKAGE = 0.1
"""Share of the identity in a residual's correlation matrix: few parts leave the smallest eigenvalues too small, and the
colours of a tint are nearly one direction, beside which noise in hue would be blown up."""
SMALLEST_RESIDUAL = 0.1
"""Deviation of a residual, in deviations of its channel: where a channel never fires on good parts the student is right
without learning, and whatever fires on a new part would count millionfold. Others are above 0.25 (`brg01_rl`, ResNet18
and EfficientNet-Lite)."""
SMALLEST_GREY_DEVIATION = 0.3
"""Added to the deviation of a pixel's details, in grey levels: rounding to 8 bits."""
DEVIATION_SIGMA_PX = 1.0
"""Gaussian over the variance of a pixel's details: neighbours vary alike, and parts are few."""


def fit_constants(
    outputs: Sequence[NetworkOutputs],
    weighted_gmsd: Doubles,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    model: ModelSettings,
    *,
    canonical: bool | None = None,
) -> CalibratedConstants:
    """Fit the constants to outputs on single good parts (P of them) and to lambda_r * Patch_GMSD_r, (P, R).

    canonical: whether parts lie in one pose, for constants that leave some of them out: they must not be of another
    kind than those of all. None: as these outputs look.
    """
    if canonical is None:
        canonical = in_one_pose(outputs)
    surround = 1.0 if canonical else 0.0
    tints, tint_mean = _tints(outputs, surround)
    outside = outside_regions(canvas, regions)
    height, width = tints.shape[2:]
    inside = (outside == 0).any(dim=0).reshape(height, width)
    pairs = []
    for level in range(len(outputs[0].targets)):  # one after the other: of hundreds of parts each is large
        residual = torch.cat([part.targets[level] - part.imitations[level] for part in outputs])
        pairs.append(_whitening(residual, inside, SMALLEST_RESIDUAL))
    pairs.append(_whitening(tints - tint_mean, inside, SMALLEST_DEVIATION))
    detail_mean, detail_gain = _details(outputs, canvas, regions, canonical=canonical)
    others = int(outputs[0].defects is not None)
    constants = _unscaled(pairs, tint_mean, surround, (detail_mean, detail_gain), others, len(regions))
    components = ComponentMaps(constants)
    with torch.inference_mode():
        statistics = CellStatistics(torch.cat([components(part) for part in outputs]), inside)
    constants = replace(constants, location=statistics.location.numpy(), gain=statistics.gain.numpy())
    constants = _fit_regions(constants, statistics, outputs, outside, posed=canonical)
    if not model.decoder:
        return constants
    return replace(
        constants, patch_location=_single(weighted_gmsd.mean(axis=0)), patch_scale=_single(_spread(weighted_gmsd))
    )


def _unscaled(  # noqa: PLR0917  (one array of each kind)
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    tint_mean: Tensor,
    surround: float,
    detail: tuple[NDArray[np.float32], NDArray[np.float32]],
    others: int,
    regions: int,
) -> CalibratedConstants:
    """What component maps need; with it they, the anomaly map and regions' scores are as they come.

    others: 1 with a discriminator, else 0.
    """
    components = len(pairs) + (len(detail[0]) > 0) + others
    zeros, none = np.zeros((components, *tint_mean.shape[1:]), np.float32), np.zeros((1, regions), np.float32)
    return CalibratedConstants(
        whitening=tuple(matrix for matrix, _ in pairs),
        offsets=tuple(offset for _, offset in pairs),
        tint_mean=np.ascontiguousarray(tint_mean.numpy()),
        surround=np.array([surround], np.float32),
        detail_mean=detail[0],
        detail_gain=detail[1],
        location=zeros,
        gain=zeros + 1,
        region_location=none,
        region_scale=none + 1,
        patch_location=none[0],
        patch_scale=none[0] + 1,
    )


def in_one_pose(outputs: Sequence[NetworkOutputs]) -> bool:
    """Whether each place of the part, not only the surface as a whole, has a look of its own."""
    tint = Tint(0.0)
    with torch.inference_mode():
        return in_canonical_pose(torch.cat([tint(part.planes) for part in outputs]))


def _tints(outputs: Sequence[NetworkOutputs], surround: float) -> tuple[Tensor, Tensor]:
    """Tints (P, 3, H1, W1) and what they are compared with, (3, H1, W1): each cell's own mean where parts lie in one
    pose, that of all cells elsewhere.
    """
    tint = Tint(surround)
    with torch.inference_mode():
        tints = torch.cat([tint(part.planes) for part in outputs])
        mean = tints.mean(dim=0) if surround else tints.mean(dim=(0, 2, 3))[:, None, None].expand(tints.shape[1:])
    return tints, mean


def _whitening(residual: Tensor, inside: Tensor, least: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Symmetric whitening (C, C) and offset (C,) of residuals (P, C, H, W), over all cells that touch a region.

    `inside`: (H1, W1); `least`: of a channel's deviation. The background must not count: there is nothing to imitate,
    and it would shrink the covariance.
    """
    cells = functional.adaptive_max_pool2d(inside[None, None].float(), residual.shape[2:])[0, 0] > 0
    values = residual[:, :, cells].double().transpose(0, 1).flatten(1)  # P, C, cells -> C, P * cells
    mean = values.mean(dim=1)
    covariance = torch.cov(values, correction=0)
    deviation = covariance.diagonal().sqrt().clamp_min(least)
    correlation = covariance / deviation[:, None] / deviation
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * torch.eye(len(mean), dtype=torch.float64)
    eigenvalues, vectors = torch.linalg.eigh(shrunk)
    matrix = (vectors / eigenvalues.sqrt()) @ vectors.T / deviation
    return matrix.float().numpy(), (-matrix @ mean).float().numpy()


def _details(
    outputs: Sequence[NetworkOutputs], canvas: CanvasSettings, regions: Sequence[RegionSettings], *, canonical: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and 1 / deviation of each pixel's details over good parts, (S, H, W), 0 outside regions; S 0 for no pose."""
    height, width = canvas.height_px, canvas.width_px
    if not canonical:
        none = np.zeros((0, height, width), np.float32)
        return none, none
    details, smooth = Details(), Blur(DEVIATION_SIGMA_PX)
    with torch.inference_mode():
        seen = torch.cat([details(part.planes) for part in outputs])
        mean = seen.mean(dim=0)
        variance = smooth((seen - mean).square().mean(dim=0, keepdim=True))[0]
    inside = np.zeros((height, width), np.float32)
    for region in regions:
        rows = slice(region.top_px, region.top_px + region.height_px)
        inside[rows, region.left_px : region.left_px + region.width_px] = 1.0
    return mean.numpy(), inside / (variance.sqrt().numpy() + SMALLEST_GREY_DEVIATION)


def _fit_regions(
    constants: CalibratedConstants,
    statistics: CellStatistics,
    outputs: Sequence[NetworkOutputs],
    outside: Tensor,
    *,
    posed: bool,
) -> CalibratedConstants:
    """Location and scale of each region's highest cell by view.

    Each part as a new one would be seen: by cells' statistics without it.
    """
    anomaly_map = AnomalyMap(constants)
    views = Views(outside, *statistics.location.shape[1:], posed=posed)
    with torch.inference_mode():
        seen = zip(statistics.by_the_others(), outputs, strict=True)
        maps = [anomaly_map.joined(components, part) for components, part in seen]
        highest = torch.cat([views(each) for each in maps]).double().numpy()  # P, V, R
    return replace(constants, region_location=_single(highest.mean(axis=0)), region_scale=_single(_spread(highest)))


def _spread(values: Doubles) -> Doubles:
    spread: Doubles = np.maximum(values.std(axis=0), SMALLEST_DEVIATION)
    return spread


def _single(values: Doubles) -> NDArray[np.float32]:
    return values.astype(np.float32)
