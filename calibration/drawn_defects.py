"""Defects drawn on good parts, to teach the discriminator: irregular patches, swirls and jagged lines of any contrast.

They are no copies of any station's defects: shapes, sizes, contrasts and places are drawn from wide ranges.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.repeatable import distance

Floats = NDArray[np.float32]

SMALLEST_PX, LARGEST_PX = 3.0, 20.0
FAINTEST, STRONGEST = 1.5, 12.0
"""Contrast: mean difference over the mask in deviations of the surface, drawn log-uniformly."""
PATCH_SHARE, SWIRL_SHARE = 0.65, 0.2
"""Patches among defects, swirls among patches."""
MASK_LEVEL = 0.4
LEAST_MASK_PX = 4
ATTEMPTS = 20
COLOUR_SPREAD = 0.2
"""Deviation of a colour channel's contrast about the common one."""
ROUGHEST = 0.5
SHARPEST_PX, SOFTEST_PX = 0.8, 2.5
"""Over which a patch fades."""
THINNEST_PX, THICKEST_PX = 0.5, 1.4
"""Lines."""
FOCUS_PX = 0.5, 1.0
"""Deviation of the Gaussian that blurs a defect."""
MARGIN_PX, STEP_PX = 8, 16
"""A window reaches so much further than its defect, twice what the Gaussian does, so that nothing is reflected at its
edges; its sides are whole steps, so that vector instructions round alike wherever it lies."""
AROUND = np.linspace(-math.pi, math.pi, 64, endpoint=False)

Window = tuple[slice, slice]


class DefectPainter:
    """Draws on parts of one size. where: (h, w) bool, where defects may be; noise: (h, w) deviation of the surface."""

    def __init__(self, where: NDArray[np.bool_], noise: Floats) -> None:
        self._allowed, self._where, self._noise = where, where.astype(np.float32), noise
        self._height, self._width = where.shape

    def draw(self, image: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Draw one defect on (h, w, 3) float32 of 0..255, in place, and return its mask (h, w).

        The mask is empty, and the image as it was, where no attempt fell inside `where`.
        """
        drawn = np.zeros((self._height, self._width), np.bool_)
        for _ in range(ATTEMPTS):
            strength, extent, window = self._patch(rng) if rng.random() < PATCH_SHARE else self._line(rng)
            focus = rng.uniform(*FOCUS_PX)
            strength = np.asarray(cv2.GaussianBlur(strength * self._where[window], (0, 0), focus), np.float32)
            extent = np.asarray(cv2.GaussianBlur(extent * self._where[window], (0, 0), focus), np.float32)
            if strength.max() < 0.2:
                continue
            strength /= strength.max()
            mask = np.asarray((extent > MASK_LEVEL * extent.max()) & self._allowed[window], np.bool_)
            if mask.sum() < LEAST_MASK_PX:
                continue
            contrast = math.exp(rng.uniform(math.log(FAINTEST), math.log(STRONGEST))) * rng.choice((-1.0, 1.0))
            contrast *= float(np.median(self._noise[window][mask])) / float(strength[mask].mean())
            colour = 1 + COLOUR_SPREAD * rng.standard_normal(3)
            image[window] += (contrast * colour).astype(np.float32) * strength[..., None]
            np.clip(image, 0, 255, out=image)
            drawn[window] = mask
            break
        return drawn

    def _patch(self, rng: np.random.Generator) -> tuple[Floats, Floats, Window]:
        """Strength and extent of an irregular, more or less soft patch, some of them a swirl, and where it lies."""
        size = math.exp(rng.uniform(math.log(SMALLEST_PX), math.log(LARGEST_PX)))
        radius = np.ones_like(AROUND)
        for order in range(2, 7):
            wave = np.cos(order * AROUND + rng.uniform(0, 2 * math.pi))
            radius += rng.uniform(0.1, ROUGHEST) / order * rng.standard_normal() * wave
        radius = np.maximum(radius, 0.35) * size / 2
        along, across, window = self._placed(float(radius.max()) + SOFTEST_PX / 2, rng)
        across /= np.float32(rng.uniform(0.5, 1.0))
        reach = np.interp(np.arctan2(across, along), AROUND, radius, period=2 * math.pi)
        away = distance(along, across)
        extent = np.clip((reach - away) / rng.uniform(SHARPEST_PX, SOFTEST_PX) + 0.5, 0, 1).astype(np.float32)
        if rng.random() >= SWIRL_SHARE:
            return extent, extent, window
        phase = 2 * math.pi * away / max(3.0, size / 3) + rng.uniform(0, 2 * math.pi)
        return (extent * (0.625 + 0.375 * np.cos(phase))).astype(np.float32), extent, window

    def _line(self, rng: np.random.Generator) -> tuple[Floats, Floats, Window]:
        """Strength and extent of a thin line, straight to jagged, and where it lies."""
        size = math.exp(rng.uniform(math.log(SMALLEST_PX), math.log(LARGEST_PX)))
        corners = max(3, round(size / 2.5))
        at = np.linspace(-size / 2, size / 2, corners)
        aside = np.cumsum(rng.normal(0, rng.uniform(0, 0.7), corners))
        aside -= np.linspace(aside[0], aside[-1], corners)
        along, across, window = self._placed(float(np.hypot(at, aside).max()) + (THICKEST_PX + 1) / 2, rng)
        nearest = np.full(along.shape, np.inf, np.float32)
        for start in range(corners - 1):
            step_u, step_v = at[start + 1] - at[start], aside[start + 1] - aside[start]
            du, dv = along - np.float32(at[start]), across - np.float32(aside[start])
            share = np.clip((du * step_u + dv * step_v) / (step_u**2 + step_v**2), 0, 1).astype(np.float32)
            np.minimum(nearest, distance(du - share * step_u, dv - share * step_v), out=nearest)
        strength = np.clip(rng.uniform(THINNEST_PX, THICKEST_PX) / 2 - nearest + 0.5, 0, 1).astype(np.float32)
        return strength, strength, window

    def _placed(self, reach: float, rng: np.random.Generator) -> tuple[Floats, Floats, Window]:
        """Coordinates about a random place, turned by a random angle, in a window that holds all within `reach`."""
        column, row, turn = rng.uniform(0, self._width), rng.uniform(0, self._height), rng.uniform(0, math.pi)
        window = _steps(row, reach, self._height), _steps(column, reach, self._width)
        dx = np.arange(window[1].start, window[1].stop, dtype=np.float32) - np.float32(column)
        dy = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(row)
        cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
        return dx * cosine + dy * sine, dy * cosine - dx * sine, window


def _steps(at: float, reach: float, side: int) -> slice:
    """Whole steps of one side that hold all within `reach` of this place, and MARGIN_PX more."""
    low, high = at - reach - MARGIN_PX, at + reach + MARGIN_PX
    return slice(max(0, math.floor(low / STEP_PX) * STEP_PX), min(side, math.ceil(high / STEP_PX) * STEP_PX))
