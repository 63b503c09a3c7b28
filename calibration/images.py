"""Image files -> (H, W, 3) uint8 RGB arrays, with one clear line for each file that is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.errors import DataError
from engines.pictures import SUFFIXES, Picture, PictureError, PictureFormat, read_header_of, read_picture, to_8_bits

IMAGE_SUFFIXES = SUFFIXES
JPEG_MASK_BLACK = 127
"""Black of a JPEG mask: around every edge its compression leaves greys that nobody drew."""


def load_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB, of deeper ones the upper 8 bits (docs/pictures.md). Blocks.

    Raises DataError, naming the file, where it is no image, is damaged, or is of a kind that is not read.
    """
    return to_8_bits(_read(path).pixels)


def load_frame(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read an image as (H, W, 3) RGB as deep as it is stored: uint8, or uint16. Blocks; raises as load_image."""
    return _read(path).pixels


def stored_bits(path: Path) -> int:
    """Bits of one channel that the file says it has, 1 to 16; nothing is decoded. Raises DataError as load_image."""
    try:
        return read_header_of(path).bits
    except PictureError as error:
        raise DataError(str(error)) from error


def load_mask(path: Path) -> NDArray[np.bool_]:
    """Read a defect mask as (H, W) bool: what is not black is defective, at any depth. Raises DataError as load_image.

    JPEG masks: what is above JPEG_MASK_BLACK.
    """
    picture = _read(path)
    black = JPEG_MASK_BLACK if picture.header.format is PictureFormat.JPEG else 0
    mask: NDArray[np.bool_] = np.any(picture.pixels > black, axis=2)  # (H, W, 3) -> (H, W)
    return mask


def _read(path: Path) -> Picture:
    try:
        return read_picture(path)
    except PictureError as error:
        raise DataError(str(error)) from error
