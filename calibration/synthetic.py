"""Held-out good parts with drawn-on defects: so that parity and golden images also speak of parts to be rejected.

Never a source of limits or weights: those come from good parts alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.settings import RegionSettings

Images = NDArray[np.uint8]

SMALLEST, LARGEST = 0.02, 0.12
FAINTEST, STRONGEST = 2.0, 12.0
LEAST_NOISE = 1.0


def with_defects(images: Images, regions: Sequence[RegionSettings], seed: int) -> Images:
    """Copies of (P, H, W, 3) uint8 part images, each with one spot or scratch inside a region.

    Sizes run from SMALLEST to LARGEST of the region's longer side, contrasts from FAINTEST to STRONGEST deviations of
    the region's own grain, darker or brighter. The same seed gives the same defects.
    """
    rng = np.random.default_rng(seed)
    marked = images.copy()
    for image in marked:
        region = regions[int(rng.integers(len(regions)))]
        inside = image[
            region.top_px : region.top_px + region.height_px, region.left_px : region.left_px + region.width_px
        ]
        grey = inside.mean(axis=2)
        noise = max(float((grey - cv2.GaussianBlur(grey, (0, 0), 2.0)).std()), LEAST_NOISE)
        contrast = rng.uniform(FAINTEST, STRONGEST) * noise * rng.choice((-1.0, 1.0))
        changed = inside + contrast * _shape(grey.shape, rng)[..., None]
        inside[:] = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return marked


def _shape(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Strength 0..1 of one defect in a region of (height, width): a filled ellipse or a line, slightly blurred."""
    height, width = shape
    size = max(2.0, rng.uniform(SMALLEST, LARGEST) * max(shape))
    centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
    angle = rng.uniform(0, 180)
    drawn = np.zeros(shape, np.uint8)
    if rng.random() < 0.5:
        axes = (max(1, round(size / 2)), max(1, round(size / 2 * rng.uniform(0.4, 1.0))))
        cv2.ellipse(drawn, centre, axes, angle, 0, 360, 255, -1)
    else:
        reach = size * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
        end = (int(centre[0] + reach[0]), int(centre[1] + reach[1]))
        cv2.line(drawn, centre, end, 255, 1)
    return np.asarray(cv2.GaussianBlur(drawn.astype(np.float32) / 255.0, (0, 0), 0.6), np.float32)
