"""Whether a compressed strip or tile of a TIFF unpacks to as many bytes as its pixels take.

libtiff goes on behind damage in a picture of 8 bits, and what it could not unpack comes out as black or as the rows
before. So each piece is checked here before it is decoded. Uncompressed pixels carry nothing that could be checked.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLEAR, END, FIRST_ENTRY = 256, 257, 258
LZW_WIDTHS: Final = ((9, 254), (10, 512), (11, 1024), (12, 2308))
"""Bits of a code, and how many codes of so many bits follow each other before the table has to be cleared."""
TABLE_BYTES: Final = sum(bits * count for bits, count in LZW_WIDTHS) // 8 + 2
"""What the codes of one table take at most, from any bit on."""
PACKBITS_NOTHING: Final = 128


def plain_bytes(piece: bytes, _most: int) -> int:
    """Bytes of a piece that is not compressed."""
    return len(piece)


def deflated_bytes(piece: bytes, most: int) -> int:
    """Bytes that a zlib stream unpacks to; -1 where it is damaged, cut off, or holds more than so many."""
    unpacking = zlib.decompressobj()
    try:
        length = len(unpacking.decompress(piece, most + 1))
    except zlib.error:
        return -1
    return length if unpacking.eof and length <= most else -1


def packbits_bytes(piece: bytes, _most: int) -> int:
    """Bytes that a PackBits run sequence unpacks to; -1 where the last run is cut off."""
    at = length = 0
    while at < len(piece):
        head = piece[at]
        if head < PACKBITS_NOTHING:
            at, length = at + 2 + head, length + 1 + head
        elif head > PACKBITS_NOTHING:
            at, length = at + 2, length + 257 - head
        else:
            at += 1
    return length if at == len(piece) else -1


def lzw_bytes(piece: bytes, most: int) -> int:
    """Bytes that TIFF's LZW codes unpack to (TIFF 6.0, section 13); -1 where a code names what is not in the table.

    What follows when there are so many is not looked at: libtiff does not, either.
    """
    at = length = 0
    while length < most:
        window = np.frombuffer(piece[at // 8 : at // 8 + TABLE_BYTES], np.uint8)
        codes, used = _codes(np.unpackbits(window)[at % 8 :])
        stops = np.flatnonzero((codes == CLEAR) | (codes == END))
        if not len(stops):
            return -1
        run = codes[: stops[0]]
        unpacked = _unpacked_bytes(run)
        if unpacked < 0:
            return -1
        length, at = length + unpacked, at + int(used[stops[0]])
        if codes[stops[0]] == END:
            break
    return length


def _codes(bits: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes from a cleared table on, (C,), and the bits used after each of them, (C,)."""
    codes, used = [], []
    at = 0
    for width, count in LZW_WIDTHS:
        there = min(count, (len(bits) - at) // width)
        if there <= 0:
            break
        weights = 1 << np.arange(width - 1, -1, -1)
        codes.append(bits[at : at + there * width].reshape(there, width) @ weights)
        used.append(at + width * np.arange(1, there + 1))
        at += there * width
    if not codes:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(codes), np.concatenate(used)


def _unpacked_bytes(run: NDArray[np.int64]) -> int:
    """Bytes of the codes between two clears: entry 258 + k is the string of code k and one byte more."""
    places = np.arange(len(run))
    if np.any(run > FIRST_ENTRY + places - 1) or np.any((places == 0) & (run >= CLEAR)):
        return -1
    # The string of an entry is as long as its chain of parents: halved in each step.
    lengths = np.ones(len(run), np.int64)
    parents = np.where(run < CLEAR, -1, run - FIRST_ENTRY)
    while np.any(parents >= 0):
        has = parents >= 0
        lengths[has] += lengths[parents[has]]
        parents[has] = parents[parents[has]]
    return int(lengths.sum())
