"""Image files -> (H, W, 3) uint8 RGB arrays, with one clear line for each file that is none."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from calibration.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 64_000_000
TURNED_FORMATS = frozenset({"JPEG", "MPO", "TIFF"})
"""Whose EXIF tag counts: those that the camera `folder` turns, too, so that parts are learnt as they will be seen."""
JPEG_MASK_BLACK = 127
"""Black of a JPEG mask: around every edge its compression leaves greys that nobody drew."""


def load_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB; JPEG and TIFF are turned upright by their EXIF tag.

    Grey is repeated over the channels, alpha is laid over black, of 16 bits the upper 8 are kept. Blocks.
    Raises DataError, naming the file, where it is no image, is damaged, or has more than MAX_PIXELS pixels.
    """
    picture = _upright(_open(path))
    if picture.mode == "F":
        raise DataError(f"{path}: floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        if wide.min() < 0 or wide.max() > 65_535:
            raise DataError(f"{path}: more than 16 bits per pixel; save it with 8 or 16 bits")
        grey = (wide.astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W) -> (H, W, 3)
    return _rgb(picture)


def load_mask(path: Path) -> NDArray[np.bool_]:
    """Read a defect mask as (H, W) bool: what is not black is defective, at any depth. Raises DataError as load_image.

    JPEG masks: what is above JPEG_MASK_BLACK.
    """
    opened = _open(path)
    black = JPEG_MASK_BLACK if opened.format == "JPEG" else 0
    picture = _upright(opened)
    deep = picture.mode == "F" or picture.mode.startswith("I")
    pixels = np.asarray(picture)[:, :, None] if deep else _rgb(picture)
    mask: NDArray[np.bool_] = np.any(pixels > black, axis=2)  # (H, W, 1 or 3) -> (H, W)
    return mask


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture of 8 bits as (H, W, 3), its alpha laid over black."""
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF tag says; as it is where the tag does not count, or is damaged."""
    if picture.format not in TURNED_FORMATS:
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, TypeError, ValueError, KeyError, OSError, struct.error):
        # Pillow raises all of these on damaged tags; the pixels are sound.
        return picture


def _open(path: Path) -> Image.Image:
    """The decoded picture, every byte of it read."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # Pillow warns of sizes between its bound and twice that; the check below speaks for itself.
            warnings.simplefilter("ignore")
            picture = Image.open(file)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: {width}x{height} pixels; the most is {MAX_PIXELS // 1_000_000} megapixels")
            picture.load()
    except UnidentifiedImageError:
        raise DataError(f"{path}: is no image; remove it from the folder") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: larger than {MAX_PIXELS // 1_000_000} megapixels") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: cannot be read: permission denied") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise DataError(f"{path}: damaged image ({' '.join(str(error).split())}); remove or replace it") from error
    return picture
