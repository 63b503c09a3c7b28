"""How bright and how sharp a part image is: one formula for calibration and for the daemon's drift watch."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Appearance:
    """brightness: mean grey value, 0 to 255. sharpness: variance of the Laplacian, in grey values squared."""

    brightness: float
    sharpness: float


def appearance(part_image: NDArray[np.uint8]) -> Appearance:
    """Measure an (H, W, 3) uint8 RGB part image; reads it only.

    Sharpness is the focus measure LAPV of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR
    2000, with the four-neighbour Laplacian. The canvas around the part counts in both: it is the same for every part.
    """
    grey = cv2.cvtColor(part_image, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return Appearance(float(cv2.mean(grey)[0]), float(deviation[0, 0]) ** 2)
