"""Feature distances -> anomaly map -> scores: the constants that calibration fits, and the geometry they live on.

The formula runs inside the fused graph (`engines.networks.tail`, docs/scores.md). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from engines.settings import RegionSettings

Floats = NDArray[np.float32]
LEVEL_STRIDE = 4
"""Canvas pixels per cell of the anomaly map: the stride of the first level."""
SMOOTHING_CELLS = 1.0
"""Deviation of the Gaussian over the anomaly map, in cells."""
TINT_SIGMA_PX = 4.0
"""Deviation of the Gaussian under which colours are compared, in canvas pixels."""
SURROUND_SIGMA_PX = 8.0
"""Deviation of the wider Gaussian that is taken off for parts in canonical pose, whose light varies."""
DETAIL_SIGMAS_PX = (0.7, 1.2, 2.0)
"""Deviations of the Gaussians under which small spots are looked for on parts in canonical pose, in canvas pixels."""
DETAIL_SURROUND_PX = 7.0
"""Deviation of the wider Gaussian that is taken off them."""
WIDE_SHARE = 1 / 32
"""Deviation of the Gaussian under which extended defects are looked for on the anomaly map, as a share of its shorter
side; at least one cell."""
DETAIL_WEIGHT = 1.0
"""Weight of the small spots beside the sum of the other components, each in units of its worst cell on a good part."""
DISCRIMINATOR_WEIGHT = 6.0
"""Weight of the discriminator beside that sum, likewise."""
MEMORY_WEIGHT, FULL_MEMORY_WEIGHT = 0.5, 2.0
"""Weight of a thin and of a well-filled memory's distance in the anomaly map, likewise."""
MEMORY_SCORE_WEIGHT = 3.0
"""Weight of a well-filled memory's highest and of its mean distance in a region score beside the anomaly map's highest
cell, all in deviations over good parts."""
PATCH_WEIGHT = 0.1
"""Weight of Patch_GMSD beside the anomaly map in a region score, both in deviations over good parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedConstants:
    """What `score: calibrated` was fitted to: statistics of good parts that the networks had not seen. All float32.

    Components are the K feature levels, the tint, for parts in canonical pose the detail, then memory and discriminator
    where there are such: C of them; (H1, W1) are the cells of the anomaly map.

    whitening, offsets: per component (C, C) and (C,): residual r -> z = whitening @ r + offset, white over good parts.
    tint_mean: (3, H1, W1), what the tint is compared with. surround: (1,), 1 where a wider mean is taken off, else 0.
    detail_mean, detail_gain: (S, H, W) for the S detail scales, S = 0 where parts are in no canonical pose.
    location, gain: (C, H1, W1): component map d -> (d - location) * gain.
    memory_weight: (1,), of the memory in the map, 0 without one.
    region_location, region_scale: (V, R) of a region's highest cell in each of V views (engines.networks.calibrated.
    Views), V = 1 where parts lie in canonical pose. memory_location, memory_gain: (2, R) of the memory's highest cell
    and of its mean, their weight among the gain, zeros without one. patch_location, patch_scale: (R,) of lambda_r *
    Patch_GMSD_r, zeros and ones without a decoder.
    """

    whitening: tuple[Floats, ...]
    offsets: tuple[Floats, ...]
    tint_mean: Floats
    surround: Floats
    detail_mean: Floats
    detail_gain: Floats
    location: Floats
    gain: Floats
    memory_weight: Floats
    region_location: Floats
    region_scale: Floats
    memory_location: Floats
    memory_gain: Floats
    patch_location: Floats
    patch_scale: Floats

    def on_scale_of(self, other: CalibratedConstants) -> CalibratedConstants:
        """These statistics of cells; locations, scales and weights of what is read off the maps are the other's."""
        return replace(
            self,
            region_location=other.region_location,
            region_scale=other.region_scale,
            memory_location=other.memory_location,
            memory_gain=other.memory_gain,
            patch_location=other.patch_location,
            patch_scale=other.patch_scale,
        )

    def arrays(self) -> dict[str, Floats]:
        """All arrays by name, for a safetensors file."""
        named: dict[str, Floats] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                named.update({f"{field.name}.{index}": array for index, array in enumerate(value)})
            else:
                named[field.name] = value
        return named

    @staticmethod
    def from_arrays(named: Mapping[str, Floats]) -> CalibratedConstants:
        """The inverse of `arrays`. Raises KeyError where one is missing."""
        components = sum(name.startswith("whitening.") for name in named)
        return CalibratedConstants(
            whitening=tuple(named[f"whitening.{index}"] for index in range(components)),
            offsets=tuple(named[f"offsets.{index}"] for index in range(components)),
            tint_mean=named["tint_mean"],
            surround=named["surround"],
            detail_mean=named["detail_mean"],
            detail_gain=named["detail_gain"],
            location=named["location"],
            gain=named["gain"],
            memory_weight=named["memory_weight"],
            region_location=named["region_location"],
            region_scale=named["region_scale"],
            memory_location=named["memory_location"],
            memory_gain=named["memory_gain"],
            patch_location=named["patch_location"],
            patch_scale=named["patch_scale"],
        )


@dataclass(frozen=True, slots=True)
class ScoringConstants:
    """What the score needs beside the network.

    lambdas: one weight per region (Eq. 12), ones without a decoder. calibrated: for `score: calibrated`, else None.
    """

    lambdas: tuple[float, ...]
    calibrated: CalibratedConstants | None = None


def region_masks(height_px: int, width_px: int, regions: Sequence[RegionSettings]) -> NDArray[np.bool_]:
    """Which cells of the anomaly map a region touches: (R, H1, W1)."""
    masks = np.zeros((len(regions), height_px // LEVEL_STRIDE, width_px // LEVEL_STRIDE), dtype=np.bool_)
    for mask, region in zip(masks, regions, strict=True):
        bottom, right = region.top_px + region.height_px, region.left_px + region.width_px
        mask[
            region.top_px // LEVEL_STRIDE : -(-bottom // LEVEL_STRIDE),
            region.left_px // LEVEL_STRIDE : -(-right // LEVEL_STRIDE),
        ] = True
    return masks


def gaussian(sigma: float) -> Floats:
    """Taps of a Gaussian cut at three deviations, sum 1."""
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    normalised: Floats = (taps / taps.sum()).astype(np.float32)
    return normalised
