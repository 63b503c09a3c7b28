"""The size that an image file claims, read from its header before any decoder gets it: a bomb is never unpacked.

Layouts: PNG (W3C), JPEG (ITU T.81), BMP (Microsoft), TIFF 6.0 and BigTIFF, WebP (RFC 9649).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the others of that range are tables
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
TIFF_SIDES, TIFF_TILE_SIDES = (256, 257), (322, 323)
TIFF_INTEGERS = {3: "H", 4: "I", 16: "Q"}
MOST_TAGS = 4096


def claimed_size(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) in pixels, the larger of image and tile for TIFF. Raises ValueError where no header is found."""
    for magic, offset, read in _FORMATS:
        if bytes(data[offset : offset + len(magic)]) == magic:
            try:
                width, height = read(data)
            except (struct.error, IndexError, OverflowError):
                raise ValueError("its header is cut off") from None
            if width < 1 or height < 1:
                raise ValueError(f"claims {width}x{height} pixels")
            return width, height
    raise ValueError("is no image, or a damaged one")


def _png(data: bytes | memoryview) -> tuple[int, int]:
    if bytes(data[12:16]) != b"IHDR":
        raise ValueError("its header is damaged")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes | memoryview) -> tuple[int, int]:
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
        if marker in JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker in {0xD9, 0xDA}:  # end of image, or pixels, before any size
            raise ValueError("its header is damaged")
        at += struct.unpack_from(">H", data, at)[0]


def _bmp(data: bytes | memoryview) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height: the first row is the top one


def _tiff(data: bytes | memoryview) -> tuple[int, int]:
    """The first directory: the image's sides, and those of its tiles, which are unpacked whole."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if count > MOST_TAGS:
        raise ValueError("its header is damaged")
    first, length, value_at = (at + 8, 20, 12) if big else (at + 2, 12, 8)
    sides = dict.fromkeys((*TIFF_SIDES, *TIFF_TILE_SIDES), 0)
    for entry in range(first, first + count * length, length):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in sides and kind in TIFF_INTEGERS:
            (sides[tag],) = struct.unpack_from(order + TIFF_INTEGERS[kind], data, entry + value_at)
    image, tile = (tuple(sides[tag] for tag in tags) for tags in (TIFF_SIDES, TIFF_TILE_SIDES))
    if 0 in image:
        raise ValueError("its header is damaged")
    width, height = max(image, tile, key=lambda pair: pair[0] * pair[1])
    return width, height


def _webp(data: bytes | memoryview) -> tuple[int, int]:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("its header is damaged")


_FORMATS: tuple[tuple[bytes, int, Callable[[bytes | memoryview], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, _png),
    (b"\xff\xd8", 0, _jpeg),
    (b"BM", 0, _bmp),
    (b"II*\0", 0, _tiff),
    (b"MM\0*", 0, _tiff),
    (b"II+\0", 0, _tiff),
    (b"MM\0+", 0, _tiff),
    (b"WEBP", 8, _webp),
)
