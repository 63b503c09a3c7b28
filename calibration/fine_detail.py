"""What a smaller picture no longer shows: detail finer than so many pixels, told from a camera's noise."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

PLACES = 12
"""A side; so many squares of a picture are looked at, so that outlines, which few of them have, do not count."""
LEAST_DETAIL = 4.0
"""Grey levels, root mean square, from which on a place has detail."""
LEAST_SIDE_PX = 48


def detail_finer_than(pictures: Sequence[NDArray[np.uint8]], pixels: float) -> float:
    """Share of the places of pictures (H, W, 3) uint8 RGB that have detail which `pixels` pixels in one would average.

    Noise is what changes from pixel to pixel without any direction, the median over the picture; detail must be
    stronger. 0 for pixels at most 1, and for pictures too small to say.
    """
    shares = [_share(picture, pixels) for picture in pictures if min(picture.shape[:2]) >= LEAST_SIDE_PX]
    return float(np.mean(shares)) if shares and pixels > 1 else 0.0


def _share(picture: NDArray[np.uint8], pixels: float) -> float:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = grey.shape
    small = (max(1, round(width / pixels)), max(1, round(height / pixels)))
    back = cv2.resize(cv2.resize(grey, small, interpolation=cv2.INTER_AREA), (width, height))
    lost = cv2.resize(np.square(grey - back), (PLACES, PLACES), interpolation=cv2.INTER_AREA)
    crossed = (grey[:-1, :-1] - grey[:-1, 1:] - grey[1:, :-1] + grey[1:, 1:]) / 2
    noise = float(np.median(np.abs(crossed)) / 0.6745) ** 2
    detail = lost - noise * (1 - 1 / pixels**2)
    return float((detail >= max(LEAST_DETAIL**2, noise)).mean())
