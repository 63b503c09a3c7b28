"""The frame around a part at the resolutions that its alignment works at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.alignment.template import Floats

Image = NDArray[np.uint8]
ANGLES, RADII = 128, 24


@dataclass(frozen=True, slots=True)
class View:
    """The frame around the part at three resolutions, each half of the one before: (h, w, 3) float32,
    less the background.

    factor, left, top: pixel u of `full` lies at u * factor + offset in the frame.
    """

    full: Floats
    half: Floats
    quarter: Floats
    factor: int
    left: float
    top: float

    def from_frame(self, x: float, y: float) -> tuple[float, float]:
        """Where a place in the frame lies in `full`."""
        return (x - self.left) / self.factor, (y - self.top) / self.factor


def span(middle: float, reach: float, size: int, factor: int) -> tuple[int, int]:
    """First and last + 1 of the shrunken pixels within `reach` frame pixels of `middle`."""
    first = max(0, math.floor((middle - reach) / factor))
    return min(first, size - 1), max(1, min(size, math.ceil((middle + reach) / factor)))


def shrunk(image: Image, factor: int) -> Image:
    """At 1/factor of its size, a power of two, by area; a remainder of rows and columns is left out.

    Halved again and again: that is a third of the time which OpenCV takes for the same at once.
    """
    height, width = (max(1, side // factor) * factor for side in image.shape[:2])
    image = image[:height, :width]
    while factor > 1:
        height, width, factor = max(1, height // 2), max(1, width // 2), factor // 2
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return image


def halvings(ratio: float) -> int:
    """The largest power of two that is no larger than the ratio, at least 1."""
    return 1 << max(0, math.floor(math.log2(max(ratio, 1.0))))


def pyramid(image: Floats) -> tuple[Floats, Floats, Floats]:
    """The image at full, half and quarter size, by area."""
    images = [image]
    for _ in range(2):
        last = images[-1]
        height, width = max(1, last.shape[0] // 2), max(1, last.shape[1] // 2)
        cut = last[: height * 2, : width * 2]
        images.append(np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.float32))
    return images[0], images[1], images[2]


def polar(image: Floats, x: float, y: float, radius: float) -> Floats:
    """(ANGLES, RADII * 3) float32: rings around a point, each weighted by the root of its length."""
    rings = cv2.warpPolar(image, (RADII, ANGLES), (x, y), radius, cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS)
    weight = np.sqrt(np.arange(RADII, dtype=np.float32) + 0.5)[None, :, None]
    return np.asarray((rings * weight).reshape(ANGLES, -1), np.float32)
