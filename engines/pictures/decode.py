"""Bytes of an image file -> (H, W, 3) RGB of 8 or 16 bits, by one decoder and one mapping.

What docs/pictures.md lists is read, upright, and everything else is refused by its header. The pixels come from OpenCV
(cv2.imdecode); tests hold them to the values that were written, for every kind in the list.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.errors import one_line
from engines.pictures.headers import Header, PictureError, PictureFormat, read_header

MAX_FILE_BYTES: Final = 1 << 29
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Picture:
    """pixels: (H, W, 3) RGB, uint8, or uint16 where more than 8 bits a channel are stored, the lowest bits 0 then."""

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    header: Header


def read_picture(path: Path) -> Picture:
    """Read and decode a regular file, or a link to one; blocks for the disk. Raises PictureError with the file."""
    return _with_name(path, decode)


def _with_name(path: Path, read: Callable[[NDArray[np.uint8]], _Read]) -> _Read:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise PictureError("is no file")  # a pipe named like an image would be waited for without end
        if found.st_size > MAX_FILE_BYTES:
            raise PictureError(f"{found.st_size} bytes; the most is {MAX_FILE_BYTES}")
        return read(np.fromfile(path, np.uint8))
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        raise PictureError(f"{path}: cannot be read: {error.strerror}") from error


def read_header_of(path: Path) -> Header:
    """The header of a regular file, or of a link to one; blocks for the disk. Raises PictureError with the file."""
    return _with_name(path, lambda data: read_header(data.data))


def decode(data: NDArray[np.uint8]) -> Picture:
    """Decode the bytes (N,) of an image file. Raises PictureError."""
    header = read_header(data.data)
    try:
        with quiet_opencv():
            native = cv2.imdecode(data, _flags(header))
    except cv2.error as error:
        raise PictureError(f"damaged image: cannot be decoded: {one_line(error.err)}") from error
    if native is None:
        raise PictureError("damaged image: its pixels cannot be decoded")
    return Picture(to_rgb(native), header)


def to_rgb(native: NDArray[Any]) -> NDArray[Any]:
    """OpenCV's (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16 -> new (H, W, 3) RGB of its dtype.

    Alpha is laid over black. Raises PictureError for other shapes and dtypes.
    """
    if native.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"cannot make RGB of {native.dtype} pixels")
    pixels = native[..., 0] if native.ndim == 3 and native.shape[2] == 1 else native
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise PictureError(f"cannot make RGB of an array of shape {native.shape}")
    rgb = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_BGR2RGB)
    if pixels.shape[2] == 4:
        most = int(np.iinfo(native.dtype).max)
        weight = pixels[..., 3:].astype(np.uint32)
        return np.asarray((rgb * weight + most // 2) // most, native.dtype)  # 65535 * 65535 + 32767 fits 32 bits
    return rgb


def _flags(header: Header) -> int:
    """All bits, and alpha, as stored; without them JPEG, which is turned upright by its EXIF tag then, and BMP.

    A BMP's fourth byte is alpha in some programs and rubbish in others. TIFF is turned in either case.
    """
    if header.format in {PictureFormat.JPEG, PictureFormat.BMP}:
        return cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    return cv2.IMREAD_UNCHANGED


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
