"""The directory of a TIFF file (TIFF 6.0, BigTIFF), and whether it is one of the kinds that are read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engines.pictures.strips import deflated_bytes, lzw_bytes, packbits_bytes, plain_bytes

INSTEAD: Final = "save it as PNG, or as TIFF of 8 or 16 bits, grey or RGB, one page"
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIPS_AT, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANES, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES_AT, TILE_BYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339
SCALARS: Final = frozenset(
    {
        WIDTH,
        HEIGHT,
        COMPRESSION,
        PHOTOMETRIC,
        FILL_ORDER,
        SAMPLES,
        STRIP_ROWS,
        PLANES,
        PREDICTOR,
        TILE_WIDTH,
        TILE_HEIGHT,
    }
)
LISTS: Final = frozenset({BITS, SAMPLE_FORMAT, STRIPS_AT, STRIP_BYTES, TILES_AT, TILE_BYTES})
KINDS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
MOST_TAGS: Final = 4096
MOST_PIXELS: Final = 64_000_000
MOST_PIECES: Final = 1 << 20
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3
COMPRESSIONS: Final[dict[int, Callable[[bytes, int], int]]] = {
    1: plain_bytes,
    5: lzw_bytes,
    8: deflated_bytes,
    32946: deflated_bytes,
    32773: packbits_bytes,
}
"""None, LZW, Deflate (two numbers), PackBits: each with how many bytes a piece unpacks to, of so many at most."""
PLAIN: Final = 1
PLAIN_TILE_BYTES: Final = 1024
"""libtiff takes tiles of up to 8 bits that are not compressed, and no multiple of this, for damaged ones."""
PREDICTED: Final = frozenset({5, 8, 32946})
"""Compressions that may store differences to the pixel on the left (LZW, Deflate)."""
DIFFERENCES: Final = 2
CONTIGUOUS: Final = 1
UNSIGNED: Final = frozenset({1, 4})
"""4 is "undefined", which says nothing else."""
READ: Final = {
    BLACK_IS_ZERO: frozenset({1, 8, 10, 12, 14, 16}),
    WHITE_IS_ZERO: frozenset({1, 8}),
    RGB: frozenset({8, 16}),
    PALETTE: frozenset({8}),
}
"""Bits of a channel by photometric interpretation."""
NAMES: Final = {
    5: "CMYK",
    6: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "Bayer",
    32844: "LogLuv",
}


class TiffError(ValueError):
    """Damaged, or of a kind that is not read; one line."""


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """Sides of the picture and of its tiles (0: strips) in pixels, channels, bits of a channel."""

    width_px: int
    height_px: int
    channels: int
    bits: int
    tile_width_px: int = 0
    tile_height_px: int = 0


def tiff_header(data: bytes | memoryview) -> TiffHeader:
    """Read the only directory. Raises TiffError, struct.error where the file is cut off."""
    tags, following = _directory(data)
    if 0 in {_one(tags, WIDTH), _one(tags, HEIGHT)}:
        raise TiffError("damaged image: its header is damaged")
    bits = tags.get(BITS) or [1]
    tile = _one(tags, TILE_WIDTH), _one(tags, TILE_HEIGHT)
    header = TiffHeader(_one(tags, WIDTH), _one(tags, HEIGHT), _one(tags, SAMPLES, 1), bits[0], *tile)
    if max(header.width_px * header.height_px, tile[0] * tile[1]) > MOST_PIXELS:
        return header  # refused for its size by who asked
    _check_kind(tags, header)
    if following:
        raise TiffError(f"a TIFF of several pages, which is not read: which of them is the part? {INSTEAD}")
    _check_pieces(tags, header, data)
    return header


def _directory(data: bytes | memoryview) -> tuple[dict[int, list[int]], int]:
    """Values of the tags that matter, and where the next directory is (0: nowhere)."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if count > MOST_TAGS:
        raise TiffError("damaged image: its header is damaged")
    first, length = (at + 8, 20) if big else (at + 2, 12)
    tags: dict[int, list[int]] = {}
    for entry in range(first, first + count * length, length):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in SCALARS | LISTS and kind in KINDS:
            tags[tag] = _values(data, entry, order, kind, big)
    end = first + count * length
    (following,) = struct.unpack_from(order + ("Q" if big else "I"), data, end)
    return tags, following


def _values(data: bytes | memoryview, entry: int, order: str, kind: int, big: bool) -> list[int]:
    """The numbers of one entry: in the entry itself where there is room, else where it points to."""
    count_at, value_at, room = (entry + 4, entry + 12, 8) if big else (entry + 4, entry + 8, 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "I"), data, count_at)
    if count > MOST_PIECES:
        raise TiffError("damaged image: its header is damaged")
    shape = f"{order}{count}{KINDS[kind]}"
    if struct.calcsize(shape) > room:
        (value_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, value_at)
    return list(struct.unpack_from(shape, data, value_at))


def _one(tags: dict[int, list[int]], tag: int, default: int = 0) -> int:
    values = tags.get(tag, [])
    return values[0] if values else default


def _check_kind(tags: dict[int, list[int]], header: TiffHeader) -> None:
    """Raises TiffError for what is not in READ, or is not stored as one picture of unsigned numbers."""
    photometric = _one(tags, PHOTOMETRIC, -1)
    bits = tags.get(BITS) or [1]
    if photometric not in READ:
        raise TiffError(f"a TIFF in {NAMES.get(photometric, 'an unusual')} colours, which is not read; {INSTEAD}")
    if set(tags.get(SAMPLE_FORMAT, [1])) - UNSIGNED:
        raise TiffError(f"a TIFF of signed or floating-point numbers, which have no agreed range; {INSTEAD}")
    if len(set(bits)) != 1 or bits[0] not in READ[photometric]:
        kind = "white-is-zero " if photometric == WHITE_IS_ZERO else ""
        raise TiffError(f"a {kind}TIFF of {bits[0]} bits a channel, which is not read; {INSTEAD}")
    if header.channels != (3 if photometric == RGB else 1):
        raise TiffError(f"a TIFF of {header.channels} channels, which is not read: transparency? infrared? {INSTEAD}")
    if header.channels > 1 and _one(tags, PLANES, CONTIGUOUS) != CONTIGUOUS:
        raise TiffError(f"a TIFF with each colour apart (planar), which is not read; {INSTEAD}")
    if _one(tags, COMPRESSION, PLAIN) not in COMPRESSIONS or _one(tags, FILL_ORDER, 1) != 1:
        raise TiffError(f"a TIFF with an unusual compression, which is not read; {INSTEAD} (LZW or Deflate are read)")
    predictor = _one(tags, PREDICTOR, 1) if _one(tags, COMPRESSION, PLAIN) in PREDICTED else 1
    if predictor not in {1, DIFFERENCES} or (predictor == DIFFERENCES and bits[0] not in {8, 16}):
        raise TiffError(f"a TIFF with an unusual predictor, which is not read; {INSTEAD}")


def _check_pieces(tags: dict[int, list[int]], header: TiffHeader, data: bytes | memoryview) -> None:
    """Raises TiffError where a strip or tile lies outside of the file, or does not unpack to its pixels."""
    tiled = TILES_AT in tags
    at, held = (tags.get(tag, []) for tag in ((TILES_AT, TILE_BYTES) if tiled else (STRIPS_AT, STRIP_BYTES)))
    expected = _piece_bytes(tags, header, tiled)
    unpacked = COMPRESSIONS[_one(tags, COMPRESSION, PLAIN)]
    if len(at) != len(expected) or len(held) != len(expected):
        raise TiffError("damaged image: its pixels are cut off")
    most = max(expected)
    if tiled and unpacked is plain_bytes and header.bits <= 8 and most % PLAIN_TILE_BYTES:
        raise TiffError(f"a TIFF with tiles of {most} bytes, which is not read; {INSTEAD}, in strips, or with LZW")
    for start, length, wanted in zip(at, held, expected, strict=True):
        if start + length > len(data) or unpacked(bytes(data[start : start + length]), most) < wanted:
            raise TiffError("damaged image: a strip of its pixels is damaged or cut off")


def _piece_bytes(tags: dict[int, list[int]], header: TiffHeader, tiled: bool) -> list[int]:
    """Bytes that each strip or tile unpacks to, in the order of the file."""

    def row_bytes(width_px: int) -> int:
        return (width_px * header.channels * header.bits + 7) // 8

    if tiled:
        width, height = _one(tags, TILE_WIDTH), _one(tags, TILE_HEIGHT)
        if 0 in {width, height}:
            raise TiffError("damaged image: its header is damaged")
        count = -(-header.width_px // width) * -(-header.height_px // height)
        return [row_bytes(width) * height] * min(count, MOST_PIECES)
    rows = max(min(_one(tags, STRIP_ROWS, header.height_px), header.height_px), 1)
    return [row_bytes(header.width_px) * min(rows, header.height_px - top) for top in range(0, header.height_px, rows)]
