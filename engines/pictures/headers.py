"""What an image file says it is, read from its header before any decoder gets it.

A file of a kind that is not listed in docs/pictures.md is refused here, in words that say what to save instead. So no
decoder is ever asked what it makes of a rare kind, and a bomb is never unpacked. Layouts: PNG (W3C), JPEG (ITU T.81),
BMP (Microsoft), TIFF 6.0 and BigTIFF, WebP (RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from engines.errors import EnginesError
from engines.pictures.other_formats import KINDS_READ, other_format
from engines.pictures.tiff import MOST_PIXELS, TiffError, tiff_header

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""Names that folders are searched for; what a file is, its content alone decides."""
MAX_PIXELS: Final = MOST_PIXELS
JPEG_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {
    0xC4,
    0xC8,
    0xCC,
}  # SOF markers; the others of that range are tables
JPEG_READ: Final = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive, Huffman-coded."""
JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
JPEG_PRECISION_BITS: Final = 8
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_LS: Final = 0xF7
PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
BMP_CORE_HEADER: Final = 12
"""Bytes of the oldest header. OpenCV shows another picture than the file holds."""
BMP_PLAIN, BMP_BITFIELDS, BMP_ALPHA_BITFIELDS = 0, 3, 6
BMP_MASKS: Final = (0x00FF0000, 0x0000FF00, 0x000000FF)
BMP_DEPTHS: Final = frozenset({1, 4, 8, 24, 32})
WEBP_ANIMATED: Final = 0x02
INSTEAD: Final = "save it as PNG"


class PictureError(EnginesError):
    """A file is no picture, is damaged, or is of a kind that is not read. One line, without the file's name."""

    exit_code = 5


class PictureFormat(StrEnum):
    """File formats that are read."""

    PNG = "PNG"
    JPEG = "JPEG"
    BMP = "BMP"
    TIFF = "TIFF"
    WEBP = "WebP"


@dataclass(frozen=True, slots=True)
class Header:
    """What the file claims: sides in pixels as stored, channels with alpha, bits of one channel as stored (1..16).

    tile_px: sides of a tile, which a decoder holds as a whole even where it reaches over the edge.
    """

    format: PictureFormat
    width_px: int
    height_px: int
    channels: int
    bits: int
    tile_px: tuple[int, int] = (0, 0)


def read_header(data: bytes | memoryview) -> Header:
    """The header of a picture of a listed kind. Raises PictureError."""
    for magic, offset, read in _FORMATS:
        if bytes(data[offset : offset + len(magic)]) == magic:
            try:
                header = read(data)
            except (struct.error, IndexError, OverflowError):
                raise PictureError("damaged image: its header is cut off") from None
            except TiffError as error:
                raise PictureError(str(error)) from None
            _check_sides(header)
            return header
    if name := other_format(data):
        raise PictureError(f"is {name}, which is not read; {INSTEAD}")
    raise PictureError(f"is no image of a kind that is read ({KINDS_READ}), or a damaged one")


def still_picture(data: bytes | memoryview) -> str:
    """What the first bytes say: PNG, GIF, PostScript...; empty for what is no picture, and for JPEGs in a row.

    Those are how cameras write a video without a container.
    """
    if bytes(data[:2]) == JPEG_START:
        return "" if JPEG_END + JPEG_START in bytes(data) else PictureFormat.JPEG.value
    for magic, offset, read in _FORMATS:
        if bytes(data[offset : offset + len(magic)]) == magic:
            return _NAMES[read].value
    return other_format(data)


def _check_sides(header: Header) -> None:
    if header.width_px < 1 or header.height_px < 1:
        raise PictureError(f"damaged image: claims {header.width_px}x{header.height_px} pixels")
    for width, height in ((header.width_px, header.height_px), header.tile_px):
        if width * height > MAX_PIXELS:
            raise PictureError(f"{width}x{height} pixels; the most is {MAX_PIXELS // 1_000_000} megapixels")


def _png(data: bytes | memoryview) -> Header:
    """Walk over the chunks, each with its checksum, to IEND."""
    if bytes(data[12:16]) != b"IHDR":
        raise PictureError("damaged image: its header is damaged")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if colour not in PNG_CHANNELS:
        raise PictureError("damaged image: its header is damaged")
    header = Header(PictureFormat.PNG, width, height, PNG_CHANNELS[colour], bits)
    _check_sides(header)
    at = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise PictureError("damaged image: a checksum is wrong")
        if kind == b"acTL":
            raise PictureError(f"an animated PNG, which is not read; {INSTEAD} without animation")
        if kind == b"tRNS" and colour != 3:
            raise PictureError(
                f"a PNG with a transparent colour, which is not read; {INSTEAD} with an alpha channel, or without"
            )
        if kind == b"IEND":
            return header
        at = end + 4


def _jpeg(data: bytes | memoryview) -> Header:
    """Walk from marker to marker to the first frame header."""
    at = 2
    while True:
        while data[at] != 0xFF:
            at += 1
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in JPEG_BARE:
            continue
        if marker == JPEG_LS:
            raise PictureError(f"is JPEG-LS, which is not read; {INSTEAD}")
        if marker in JPEG_SIZES:
            return _jpeg_frame(data, marker, at)
        if marker in {0xD9, 0xDA}:  # end of image, or pixels, before any size
            raise PictureError("damaged image: its header is damaged")
        at += struct.unpack_from(">H", data, at)[0]


def _jpeg_frame(data: bytes | memoryview, marker: int, at: int) -> Header:
    precision, height, width, components = struct.unpack_from(">BHHB", data, at + 2)
    if marker not in JPEG_READ or precision != JPEG_PRECISION_BITS:
        raise PictureError(f"a lossless, arithmetic-coded or {precision}-bit JPEG, which is not read; {INSTEAD}")
    if components not in {1, 3}:
        raise PictureError(f"a JPEG of {components} channels (CMYK?), which is not read; {INSTEAD} in RGB or grey")
    if b"\xff\xd9" not in bytes(data[-4096:]) and bytes(data).rfind(b"\xff\xd9") < at:
        raise PictureError("damaged image: its end is missing")
    return Header(PictureFormat.JPEG, width, height, components, precision)


def _bmp(data: bytes | memoryview) -> Header:
    pixels_at, size = struct.unpack_from("<II", data, 10)
    if size == BMP_CORE_HEADER:
        raise PictureError(f"a BMP of OS/2, which is not read; {INSTEAD}")
    width, height, _planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    masked = compression in {BMP_BITFIELDS, BMP_ALPHA_BITFIELDS}
    masks = struct.unpack_from("<III", data, 54) if masked else BMP_MASKS
    height = abs(height)  # a negative one: the first row is the top one
    header = Header(PictureFormat.BMP, width, height, 3, 8)
    _check_sides(header)
    plain = compression == BMP_PLAIN or (masked and bits == 32)
    if not plain or bits not in BMP_DEPTHS or tuple(masks) != BMP_MASKS:
        raise PictureError(f"a compressed, 16-bit or masked BMP, which is not read; {INSTEAD}")
    if pixels_at + height * ((width * bits + 31) // 32 * 4) > len(data):
        raise PictureError("damaged image: its pixels are cut off")
    return header


def _tiff(data: bytes | memoryview) -> Header:
    found = tiff_header(data)
    sides = found.tile_width_px, found.tile_height_px
    return Header(PictureFormat.TIFF, found.width_px, found.height_px, found.channels, found.bits, sides)


def _webp(data: bytes | memoryview) -> Header:
    kind = bytes(data[12:16])
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data) + 1:  # an odd last chunk may lack its padding byte
        raise PictureError("damaged image: its end is missing")
    if kind == b"VP8X":
        if data[20] & WEBP_ANIMATED:
            raise PictureError(f"an animated WebP, which is not read; {INSTEAD}")
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise PictureError("damaged image: its header is damaged")
    return Header(PictureFormat.WEBP, width, height, 4, 8)


_FORMATS: Final[tuple[tuple[bytes, int, Callable[[bytes | memoryview], Header]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", 0, _png),
    (b"\xff\xd8", 0, _jpeg),
    (b"BM", 0, _bmp),
    (b"II*\0", 0, _tiff),
    (b"MM\0*", 0, _tiff),
    (b"II+\0", 0, _tiff),
    (b"MM\0+", 0, _tiff),
    (b"WEBP", 8, _webp),
)
_NAMES: Final[dict[Callable[[bytes | memoryview], Header], PictureFormat]] = {
    _png: PictureFormat.PNG,
    _jpeg: PictureFormat.JPEG,
    _bmp: PictureFormat.BMP,
    _tiff: PictureFormat.TIFF,
    _webp: PictureFormat.WEBP,
}
