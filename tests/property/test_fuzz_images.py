"""Images from a folder: whatever lies there is decoded, or refused in one line, before a bomb is unpacked."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.pictures import MAX_PIXELS, read_header
from inspectd.cameras.folder import read_image
from inspectd.errors import CameraError

FORMATS = ("png", "jpg", "bmp", "tiff", "webp")
ROOM_BYTES = 1 << 30
LIMITS = settings(max_examples=120, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """A small picture with structure, (H, W, 3) uint8."""
    return np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)


GOOD = {suffix: cv2.imencode(f".{suffix}", picture())[1].tobytes() for suffix in FORMATS}


@contextmanager
def little_memory() -> Iterator[None]:
    """No more than ROOM_BYTES beyond what is used now: an attempt to unpack a bomb fails the test."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no pathlib needed for /proc
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def decoded_or_refused(file: Path, data: bytes) -> None:
    """An (H, W, 3) image of the size that the header claims (or upright by its EXIF tag), or one line."""
    file.write_bytes(data)
    image, refusal = None, ""
    try:
        image = read_image(file)
    except CameraError as error:
        refusal = str(error)
    if image is None:
        assert refusal.startswith(str(file))
        assert "\n" not in refusal
    else:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.shape[0] * image.shape[1] <= MAX_PIXELS


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_claimed_size_is_the_real_one(suffix: str) -> None:
    """Headers of every format that the camera takes are read as their own decoder reads them."""
    for height, width in ((24, 40), (1, 300), (257, 3)):
        data = cv2.imencode(f".{suffix}", picture(height, width))[1].tobytes()
        header = read_header(data)
        assert (header.width_px, header.height_px) == (width, height)


@pytest.mark.parametrize("suffix", FORMATS)
@LIMITS
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8), cut=st.data())
def test_mutated_images_are_decoded_or_refused(
    tmp_path: Path, suffix: str, changes: list[tuple[int, int]], cut: st.DataObject
) -> None:
    """Bytes changed anywhere, most in the header, and the file cut off anywhere: no crash, no hang, one line."""
    data = bytearray(GOOD[suffix])
    for place, value in changes:
        data[place % (64 if place % 2 else len(data))] = value
    length = cut.draw(st.integers(0, len(data)) | st.just(len(data)))
    with little_memory():
        decoded_or_refused(tmp_path / f"part.{suffix}", bytes(data[:length]))


@LIMITS
@given(
    magic=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"RIFF\0\0\0\0WEBPVP8 "]
    ),
    rest=st.binary(max_size=400),
)
def test_arbitrary_bytes_are_refused(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    """Anything behind a format's first bytes: decoded or one line."""
    with little_memory():
        decoded_or_refused(tmp_path / "part.png", magic + rest)


def bombs() -> dict[str, bytes]:
    """Small files that claim to be huge, each well-formed up to its pixels."""
    side = 30_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(1 << 20), 9)
    made = {"png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")}
    jpeg = bytearray(GOOD["jpg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    made["jpg"] = bytes(jpeg)
    made["bmp"] = GOOD["bmp"][:18] + struct.pack("<ii", side, -side) + GOOD["bmp"][26:]
    tags = [
        (256, 4, side),
        (257, 4, side),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (279, 4, 8),
    ]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    made["tiff"] = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)
    tiles = [(256, 4, 16), (257, 4, 16), (322, 4, side), (323, 4, side)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tiles)
    made["tif"] = b"II*\0" + struct.pack("<IH", 8, len(tiles)) + directory + bytes(4)
    size = (side - 1).to_bytes(3, "little") * 2
    made["webp"] = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return made


@pytest.mark.parametrize("suffix", sorted(bombs()))
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, suffix: str) -> None:
    """900 megapixels in a few hundred bytes: refused in one line that names the size, nothing is allocated."""
    file = tmp_path / f"part.{suffix}"
    file.write_bytes(bombs()[suffix])
    with little_memory(), pytest.raises(CameraError, match="30000x30000 pixels; the most is 64 megapixels"):
        read_image(file)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe and a folder that are named like images are refused at once."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(CameraError, match="is no file"):
            read_image(tmp_path / name)
