"""What cameras share: pictures of any depth and channel count -> (H, W, 3) uint8 RGB; OpenCV's own log kept quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import CameraError
from inspectd.messages import Image


def to_image(native: NDArray[Any], where: str) -> Image:
    """`to_rgb` of what a device gave. Raises CameraError, one line that says where, for what is no picture."""
    try:
        return to_rgb(native)
    except (ValueError, cv2.error) as error:
        raise CameraError(f"{where}: {' '.join(str(error).split())}") from error


def to_rgb(native: NDArray[Any]) -> Image:
    """Convert what OpenCV decoded, (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, to new (H, W, 3) uint8 RGB.

    uint16 keeps its upper 8 bits; float is taken as 0..1; alpha is laid over black, as in calibration.
    Raises ValueError for other shapes and dtypes.
    """
    pixels = _to_uint8(native)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"cannot make RGB of an array of shape {native.shape}")
    rgb = cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)
    if pixels.shape[2] == 4:
        weight = pixels[..., 3:].astype(np.uint16)
        return np.asarray((rgb * weight + 127) // 255, np.uint8)  # 255 * 255 + 127 fits 16 bits
    return rgb  # type: ignore[return-value]


def _to_uint8(native: NDArray[Any]) -> Image:
    if native.dtype == np.uint8:
        return native
    if native.dtype == np.uint16:
        return np.asarray(native >> 8, np.uint8)
    if native.dtype in (np.float32, np.float64):
        return np.asarray(np.rint(np.nan_to_num(np.clip(native, 0, 1)) * 255), np.uint8)
    raise ValueError(f"cannot make RGB of {native.dtype} pixels")


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep the native logs of OpenCV and FFmpeg off standard error: what fails is reported by our own one line.

    FFmpeg's level can only be given through the environment, before its first use; one that is set there stays.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
