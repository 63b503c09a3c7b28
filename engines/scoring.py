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
HIGHEST, MEAN = READINGS = ("highest", "mean")
"""Ways to read a region with a memory: the highest cell of its distance map, and the map's mean over it."""
FINE, TINT = "fine", "tint"
"""What the anomaly map shows beside the distances: deviations of the finest features and of the tint."""
CALIBRATED, SURFACE = "calibrated.", "surface."
"""What the names of `CalibratedConstants` and `SurfaceConstants` begin with in a file."""
PATCH_WEIGHT = 0.1
"""Weight of Patch_GMSD beside the anomaly map in a region score, both in deviations over good parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedConstants:
    """What `score: calibrated` was fitted to: statistics of good parts that the networks had not seen. All float32.

    Components are the K feature levels, the tint, for parts in canonical pose the detail, then the discriminator where
    there is one: C of them; (H1, W1) are the cells of the anomaly map.

    whitening, offsets: per component (C, C) and (C,): residual r -> z = whitening @ r + offset, white over good parts.
    tint_mean: (3, H1, W1), what the tint is compared with. surround: (1,), 1 where a wider mean is taken off, else 0.
    detail_mean, detail_gain: (S, H, W) for the S detail scales, S = 0 where parts are in no canonical pose.
    location, gain: (C, H1, W1): component map d -> (d - location) * gain.
    region_location, region_scale: (V, R) of a region's highest cell in each of V views (engines.networks.calibrated.
    Views), V = 1 where parts lie in canonical pose. patch_location, patch_scale: (R,) of lambda_r * Patch_GMSD_r, zeros
    and ones without a decoder.
    """

    whitening: tuple[Floats, ...]
    offsets: tuple[Floats, ...]
    tint_mean: Floats
    surround: Floats
    detail_mean: Floats
    detail_gain: Floats
    location: Floats
    gain: Floats
    region_location: Floats
    region_scale: Floats
    patch_location: Floats
    patch_scale: Floats

    def on_scale_of(self, other: CalibratedConstants) -> CalibratedConstants:
        """These statistics of cells; locations, scales and weights of what is read off the maps are the other's."""
        return replace(
            self,
            region_location=other.region_location,
            region_scale=other.region_scale,
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
            region_location=named["region_location"],
            region_scale=named["region_scale"],
            patch_location=named["patch_location"],
            patch_scale=named["patch_scale"],
        )


@dataclass(frozen=True, slots=True)
class Units:
    """What brings a region's raw scores s to one scale: (s - location) / scale; (V, R) float32, V ways to read a map.

    Over good parts that were left out, 0 is the median and 1 what one part in ten reaches.
    """

    location: Floats
    scale: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceConstants:
    """How the finest features and the tint of good parts vary, wherever they lie.

    fine_matrix (C_1, C_1), fine_offset (C_1,), tint_matrix (3, 3), tint_offset (3,): r -> matrix @ r + offset is white
    over good parts. cell_location, cell_scale: (3,) units of a cell of memory, fine and tint map, for their sum. Of
    teachers without finest features C_1 is 0 and units are of memory and tint, (2,).
    """

    fine_matrix: Floats
    fine_offset: Floats
    tint_matrix: Floats
    tint_offset: Floats
    cell_location: Floats
    cell_scale: Floats


@dataclass(frozen=True, slots=True)
class MemoryConstants:
    """What a memory's score needs beside the patches.

    readings: names out of READINGS that count, and units: theirs. surface: None where a student stands beside the
    memory, which knows surfaces itself.
    """

    readings: tuple[str, ...]
    units: Units
    surface: SurfaceConstants | None = None


@dataclass(frozen=True, slots=True)
class ScoringConstants:
    """What the score needs beside the network.

    lambdas: one weight per region (Eq. 12), ones without a decoder. calibrated: for `score: calibrated`. memory: where
    there is one. student: (1, R) units of the calibrated score beside a memory.
    """

    lambdas: tuple[float, ...]
    calibrated: CalibratedConstants | None = None
    memory: MemoryConstants | None = None
    student: Units | None = None

    def arrays(self) -> dict[str, Floats]:
        """All arrays by name, for a safetensors file; the names of readings are kept beside it."""
        named: dict[str, Floats] = {}
        if self.calibrated is not None:
            named |= {f"{CALIBRATED}{name}": array for name, array in self.calibrated.arrays().items()}
        if self.memory is not None:
            named |= {"memory.location": self.memory.units.location, "memory.scale": self.memory.units.scale}
            if (surface := self.memory.surface) is not None:
                named |= {f"{SURFACE}{field.name}": getattr(surface, field.name) for field in fields(surface)}
        if self.student is not None:
            named |= {"student.location": self.student.location, "student.scale": self.student.scale}
        return named

    @staticmethod
    def from_arrays(
        lambdas: tuple[float, ...], readings: tuple[str, ...], named: Mapping[str, Floats]
    ) -> ScoringConstants:
        """The inverse of `arrays`; readings: those of the memory, empty without one. Raises KeyError for a gap."""
        own = {name.removeprefix(CALIBRATED): array for name, array in named.items() if name.startswith(CALIBRATED)}
        memory = student = None
        if readings:
            found = {name.removeprefix(SURFACE): array for name, array in named.items() if name.startswith(SURFACE)}
            surface = SurfaceConstants(**found) if found else None
            memory = MemoryConstants(readings, Units(named["memory.location"], named["memory.scale"]), surface)
        if "student.location" in named:
            student = Units(named["student.location"], named["student.scale"])
        return ScoringConstants(lambdas, CalibratedConstants.from_arrays(own) if own else None, memory, student)


def region_masks(
    height_px: int, width_px: int, regions: Sequence[RegionSettings], cells: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Which cells of a map a region touches, (R, rows, columns).

    cells: rows and columns of the map, which cover the whole canvas evenly, be it by fractions of pixels; None: one
    cell per LEVEL_STRIDE pixels.
    """
    rows, columns = cells or (height_px // LEVEL_STRIDE, width_px // LEVEL_STRIDE)
    masks = np.zeros((len(regions), rows, columns), dtype=np.bool_)
    for mask, region in zip(masks, regions, strict=True):
        down = _touched(region.top_px, region.height_px, rows, height_px)
        mask[down, _touched(region.left_px, region.width_px, columns, width_px)] = True
    return masks


def _touched(start_px: int, size_px: int, cells: int, side_px: int) -> slice:
    """Those of `cells` equal parts of a side that an interval has pixels in."""
    return slice(start_px * cells // side_px, -(-(start_px + size_px) * cells // side_px))


def gaussian(sigma: float) -> Floats:
    """Taps of a Gaussian cut at three deviations, sum 1."""
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    normalised: Floats = (taps / taps.sum()).astype(np.float32)
    return normalised
