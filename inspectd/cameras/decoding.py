"""What devices and streams give, of any depth and channel count -> (H, W, 3) RGB of 8 or 16 bits."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.pictures import PictureError, to_rgb
from inspectd.errors import CameraError
from inspectd.messages import DeepImage


def to_image(native: NDArray[Any], where: str) -> DeepImage:
    """(H, W, 3) RGB, uint8 or uint16, of what a device gave, BGR there. Raises CameraError, one line that says where.

    Float is taken as 0..1; alpha is laid over black.
    """
    try:
        return _to_rgb(native)
    except (PictureError, cv2.error) as error:
        raise CameraError(f"{where}: {' '.join(str(error).split())}") from error


def _to_rgb(native: NDArray[Any]) -> DeepImage:
    if native.dtype in (np.float32, np.float64):
        native = np.asarray(np.rint(np.nan_to_num(np.clip(native, 0, 1)) * 255), np.uint8)
    return to_rgb(native)
