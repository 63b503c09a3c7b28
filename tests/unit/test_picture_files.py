"""The one decoder of image files: every kind in docs/pictures.md gives the values that were stored, or is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from calibration.errors import DataError
from calibration.images import load_frame, load_image
from engines.pictures import PictureError, decode
from inspectd.camera_sections import VideoCameraSettings
from inspectd.cameras.folder import read_image
from inspectd.cameras.video import VideoCamera
from inspectd.errors import CameraError

H, W = 24, 40
ORIENTATION_TAG = 274
_rng = np.random.default_rng(0)
GREY = _rng.integers(0, 256, (H, W), np.uint8)
COLOUR = _rng.integers(0, 256, (H, W, 3), np.uint8)
ALPHA = _rng.integers(0, 256, (H, W), np.uint8)
DEEP = _rng.integers(0, 65_536, (H, W), np.uint16)
DEEP_COLOUR = _rng.integers(0, 65_536, (H, W, 3), np.uint16)
SMOOTH = cv2.GaussianBlur(COLOUR, (9, 9), 0)
PALETTE = Image.fromarray(COLOUR).quantize(64)
DUO = (GREY > 127).astype(np.uint8) * 255


def saved(picture: Any, kind: str, **options: Any) -> bytes:
    """The bytes of a file that Pillow writes; arrays (H, W), (H, W, 2 to 4) become a picture first."""
    file = io.BytesIO()
    opened = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    opened.save(file, kind, **options)
    return file.getvalue()


def three(grey: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def over_black(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Rounded colour x alpha."""
    most = int(np.iinfo(colour.dtype).max)
    return np.rint(colour.astype(np.float64) * alpha[:, :, None] / most).astype(colour.dtype)


def png(bits: int, colour: int, rows: np.ndarray, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of rows (H, bytes) as they are packed, with more chunks before the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", W, H, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of values of so many bits as bytes, most significant first."""
    each = (values[:, :, None].astype(np.uint16) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1)


def tiff(pixels: bytes, bits: list[int], photometric: int, **tags: int) -> bytes:
    """An uncompressed little-endian TIFF of one strip, with other tags by their number (t339=2)."""
    entries = {256: (4, [W]), 257: (4, [H]), 258: (3, bits), 259: (3, [1]), 262: (3, [photometric]), 273: (4, [0])}
    entries |= {277: (3, [len(bits)]), 278: (4, [H]), 279: (4, [len(pixels)])}
    entries |= {int(name[1:]): (3, [value] * (len(bits) if name == "t339" else 1)) for name, value in tags.items()}
    at = 8 + 2 + 12 * len(entries) + 4
    outside = b""
    directory = b""
    for tag, (kind, values) in sorted(entries.items()):
        body = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if tag == 273:
            body = b"PIXL"
        if len(body) > 4:
            outside, body = outside + body, struct.pack("<I", at + len(outside))
        directory += struct.pack("<HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
    directory = directory.replace(b"PIXL", struct.pack("<I", at + len(outside)))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + outside + pixels


def tiled(tile: np.ndarray, bits: int) -> bytes:
    """An uncompressed TIFF of W x H that lies in one tile (TH, TW) of 8 or 16 bits."""
    entries = {256: W, 257: H, 258: bits, 259: 1, 262: 1, 277: 1, 322: tile.shape[1], 323: tile.shape[0]}
    entries |= {324: 8 + 2 + 12 * 10 + 4, 325: tile.nbytes}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + tile.tobytes()


def small_tiles() -> bytes:
    """A TIFF in six tiles of 16 x 16 bytes, not compressed."""
    tiles = [padded(GREY)[row : row + 16, column : column + 16] for row in (0, 16) for column in (0, 16, 32)]
    start = 8 + 2 + 12 * 10 + 4 + 48
    entries = {256: W, 257: H, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    directory += struct.pack("<HHII", 324, 4, 6, start - 48) + struct.pack("<HHII", 325, 4, 6, start - 24)
    lists = struct.pack("<12I", *(start + 256 * number for number in range(6)), *[256] * 6)
    pixels = b"".join(tile.tobytes() for tile in tiles)
    return b"II*\0" + struct.pack("<IH", 8, 10) + directory + bytes(4) + lists + pixels


def padded(picture: np.ndarray) -> np.ndarray:
    """(H, W) -> (32, 64): whole tiles have sides that 16 divides."""
    return np.pad(picture, ((0, 32 - H), (0, 64 - W)))


def bmp(bits: int, compression: int, pixels: bytes, masks: tuple[int, ...] = ()) -> bytes:
    """A BMP of top-down rows with a header of 40 bytes."""
    more = struct.pack(f"<{len(masks)}I", *masks)
    header = struct.pack("<IiiHHIIiiII", 40, W, -H, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    at = 14 + len(header) + len(more)
    return b"BM" + struct.pack("<IHHI", at + len(pixels), 0, 0, at) + header + more + pixels


def os2_bmp() -> bytes:
    """A BMP with a header of 12 bytes, which OpenCV shows as another picture."""
    pixels = COLOUR[::-1, :, ::-1].tobytes()
    return b"BM" + struct.pack("<IHHI", 26 + len(pixels), 0, 0, 26) + struct.pack("<IHHHH", 12, W, H, 1, 24) + pixels


def by_opencv(suffix: str, rgb: np.ndarray) -> bytes:
    """The bytes of a file that OpenCV writes."""
    channels = [2, 1, 0, 3][: rgb.shape[2]]
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[:, :, channels]))[1].tobytes()


JUNK = np.dstack([COLOUR[:, :, ::-1], ALPHA]).tobytes()
EMPTY_FOURTH = np.dstack([COLOUR[:, :, ::-1], np.zeros_like(ALPHA)]).tobytes()
STANDARD_MASKS = (0xFF0000, 0xFF00, 0xFF)
TRANSPARENT_PALETTE = saved(PALETTE, "PNG", transparency=bytes(range(64)))
RGBA_OF_PALETTE = np.asarray(Image.open(io.BytesIO(TRANSPARENT_PALETTE)).convert("RGBA"))
DEEP_ALPHA = _rng.integers(0, 65_536, (H, W), np.uint16)

READ: dict[str, tuple[bytes, np.ndarray]] = {
    "png grey": (saved(GREY, "PNG"), three(GREY)),
    "png 1 bit": (png(1, 0, packed(GREY >> 7, 1)), three((GREY >> 7) * 255)),
    "png 2 bit": (png(2, 0, packed(GREY >> 6, 2)), three((GREY >> 6) * 85)),
    "png 4 bit": (png(4, 0, packed(GREY >> 4, 4)), three((GREY >> 4) * 17)),
    "png 16 bit": (saved(DEEP, "PNG"), three(DEEP)),
    "png rgb": (saved(COLOUR, "PNG"), COLOUR),
    "png rgb 16 bit": (by_opencv(".png", DEEP_COLOUR), DEEP_COLOUR),
    "png palette": (saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "png grey and alpha": (saved(np.dstack([GREY, ALPHA]), "PNG"), over_black(three(GREY), ALPHA)),
    "png rgba": (saved(np.dstack([COLOUR, ALPHA]), "PNG"), over_black(COLOUR, ALPHA)),
    "png rgba 16 bit": (
        by_opencv(".png", np.dstack([DEEP_COLOUR, DEEP_ALPHA])),
        over_black(DEEP_COLOUR, DEEP_ALPHA),
    ),
    "png transparent palette": (TRANSPARENT_PALETTE, over_black(RGBA_OF_PALETTE[:, :, :3], RGBA_OF_PALETTE[:, :, 3])),
    "bmp grey": (saved(GREY, "BMP"), three(GREY)),
    "bmp rgb": (saved(COLOUR, "BMP"), COLOUR),
    "bmp palette": (saved(PALETTE, "BMP"), np.asarray(PALETTE.convert("RGB"))),
    "bmp 1 bit": (saved(Image.fromarray(DUO).convert("1", dither=Image.Dither.NONE), "BMP"), three(DUO)),
    "bmp 32 bit, fourth byte empty": (bmp(32, 0, EMPTY_FOURTH), COLOUR),
    "bmp 32 bit, fourth byte rubbish": (bmp(32, 0, JUNK), COLOUR),
    "bmp 32 bit, standard masks": (bmp(32, 3, EMPTY_FOURTH, STANDARD_MASKS), COLOUR),
    "tiff palette": (saved(PALETTE, "TIFF"), np.asarray(PALETTE.convert("RGB"))),
    "tiff 1 bit": (saved(Image.fromarray(DUO).convert("1", dither=Image.Dither.NONE), "TIFF"), three(DUO)),
    "tiff 8 bit, white is zero": (tiff((255 - GREY).tobytes(), [8], 0), three(GREY)),
    "tiff 10 bit packed": (tiff(packed(DEEP >> 6, 10).tobytes(), [10], 1), three(DEEP >> 6 << 6)),
    "tiff 12 bit packed": (tiff(packed(DEEP >> 4, 12).tobytes(), [12], 1), three(DEEP >> 4 << 4)),
    "tiff 14 bit packed": (tiff(packed(DEEP >> 2, 14).tobytes(), [14], 1), three(DEEP >> 2 << 2)),
    "tiff rgb 16 bit": (by_opencv(".tif", DEEP_COLOUR), DEEP_COLOUR),
    "tiff in a tile": (tiled(padded(GREY), 8), three(GREY)),
    "tiff 16 bit in a tile": (tiled(padded(DEEP), 16), three(DEEP)),
    "tiff differences": (saved(COLOUR, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}), COLOUR),
    "webp": (saved(COLOUR, "WEBP", lossless=True), COLOUR),
    "webp rgba": (saved(np.dstack([COLOUR, ALPHA]), "WEBP", lossless=True, exact=True), over_black(COLOUR, ALPHA)),
}
for _name, _compression in (
    ("plain", "raw"),
    ("lzw", "tiff_lzw"),
    ("deflate", "tiff_adobe_deflate"),
    ("runs", "packbits"),
):
    READ[f"tiff grey {_name}"] = saved(GREY, "TIFF", compression=_compression), three(GREY)
    READ[f"tiff rgb {_name}"] = saved(COLOUR, "TIFF", compression=_compression), COLOUR
    READ[f"tiff 16 bit {_name}"] = saved(DEEP, "TIFF", compression=_compression), three(DEEP)

REFUSED: dict[str, tuple[bytes, str]] = {
    "gif": (saved(PALETTE, "GIF"), "GIF"),
    "avif": (saved(COLOUR, "AVIF"), "AVIF"),
    "jpeg 2000": (saved(COLOUR, "JPEG2000"), "JPEG 2000"),
    "ppm": (saved(COLOUR, "PPM"), "PNM"),
    "eps": (saved(COLOUR, "EPS"), "PostScript"),
    "tga": (saved(COLOUR, "TGA"), "TGA"),
    "tga without its footer": (saved(COLOUR, "TGA")[:-26], "is no image of a kind that is read"),
    "jpeg-ls": (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x20\0\x20\x01\x01\x11\0", "JPEG-LS"),
    "animated png": (
        saved(COLOUR, "PNG", save_all=True, append_images=[Image.fromarray(COLOUR[::-1].copy())]),
        "animated PNG",
    ),
    "animated webp": (
        saved(COLOUR, "WEBP", save_all=True, append_images=[Image.fromarray(COLOUR[::-1].copy())]),
        "animated WebP",
    ),
    "png with a transparent grey": (saved(GREY, "PNG", transparency=3), "transparent colour"),
    "png with a transparent colour": (saved(COLOUR, "PNG", transparency=(1, 2, 3)), "transparent colour"),
    "cmyk jpeg": (saved(Image.fromarray(np.dstack([COLOUR, ALPHA]), "CMYK"), "JPEG"), "4 channels"),
    "bmp 16 bit": (bmp(16, 0, DEEP.tobytes()), "16-bit"),
    "bmp 16 bit, masks": (bmp(16, 3, DEEP.tobytes(), (0xF800, 0x7E0, 0x1F)), "masked BMP"),
    "bmp red and blue exchanged": (bmp(32, 3, JUNK, (0xFF, 0xFF00, 0xFF0000)), "masked BMP"),
    "bmp of os/2": (os2_bmp(), "OS/2"),
    "tiff of small tiles": (small_tiles(), "tiles of 256 bytes"),
    "tiff floating-point differences": (
        tiff(zlib.compress(GREY.tobytes()), [8], 1, t259=8, t317=3),
        "unusual predictor",
    ),
    "tiff 12 bit differences": (
        tiff(zlib.compress(packed(DEEP >> 4, 12).tobytes()), [12], 1, t259=8, t317=2),
        "unusual predictor",
    ),
    "tiff of pages": (
        saved(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]),
        "several pages",
    ),
    "tiff rgba": (saved(np.dstack([COLOUR, ALPHA]), "TIFF"), "4 channels"),
    "tiff rgb and infrared": (tiff(JUNK, [8] * 4, 2, t338=0), "4 channels"),
    "tiff grey and alpha": (saved(np.dstack([GREY, ALPHA]), "TIFF"), "2 channels"),
    "tiff of five channels": (tiff(bytes(H * W * 5), [8] * 5, 1), "5 channels"),
    "tiff float": (saved(GREY.astype(np.float32), "TIFF"), "floating-point"),
    "tiff signed 8": (tiff(GREY.tobytes(), [8], 1, t339=2), "signed"),
    "tiff signed 16": (tiff(DEEP.tobytes(), [16], 1, t339=2), "signed"),
    "tiff 32 bit": (tiff(DEEP.astype(np.uint32).tobytes(), [32], 1), "32 bits"),
    "tiff 4 bit": (tiff(packed(GREY >> 4, 4).tobytes(), [4], 1), "4 bits"),
    "tiff 16 bit, white is zero": (tiff(DEEP.tobytes(), [16], 0), "white-is-zero"),
    "tiff planar": (tiff(COLOUR.transpose(2, 0, 1).tobytes(), [8] * 3, 2, t284=2), "planar"),
    "tiff planar 16 bit": (tiff(DEEP_COLOUR.transpose(2, 0, 1).tobytes(), [16] * 3, 2, t284=2), "planar"),
    "tiff lab": (tiff(COLOUR.tobytes(), [8] * 3, 8), "L\\*a\\*b"),
    "tiff cmyk": (saved(Image.fromarray(np.dstack([COLOUR, ALPHA]), "CMYK"), "TIFF"), "CMYK"),
    "tiff ycbcr": (saved(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), "YCbCr"),
    "tiff jpeg": (saved(COLOUR, "TIFF", compression="jpeg"), "unusual|YCbCr"),
    "tiff fax": (saved(Image.fromarray(DUO).convert("1"), "TIFF", compression="group4"), "unusual compression"),
    "tiff mixed bits": (tiff(COLOUR.tobytes(), [8, 8, 16], 2), "bits a channel"),
}


def on_both_sides(tmp_path: Path, name: str, data: bytes) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """How calibration and how the line reads this file."""
    file = tmp_path / name
    file.write_bytes(data)
    return (lambda: load_frame(file)), (lambda: read_image(file))


@pytest.mark.parametrize("kind", READ)
def test_a_listed_kind_gives_the_values_that_were_stored(tmp_path: Path, kind: str) -> None:
    """Bit for bit, as deep as the file is, on both sides; the name says nothing."""
    data, expected = READ[kind]
    pixels = decode(np.frombuffer(data, np.uint8)).pixels
    assert pixels.dtype == expected.dtype
    assert np.array_equal(pixels, expected)
    learnt, seen = (read() for read in on_both_sides(tmp_path, "part.jpg", data))
    assert learnt.dtype == seen.dtype == expected.dtype
    assert np.array_equal(learnt, seen)
    assert np.array_equal(seen, expected)
    assert np.array_equal(load_image(tmp_path / "part.jpg"), expected if expected.dtype == np.uint8 else expected >> 8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_read_as_its_library_reads_it(tmp_path: Path, options: dict[str, Any]) -> None:
    """Colour and grey, upright by the EXIF tag in all of its eight values."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        for picture in (SMOOTH, SMOOTH[:, :, 0]):
            data = saved(picture, "JPEG", quality=90, exif=exif, **options)
            expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
            learnt, seen = (read() for read in on_both_sides(tmp_path, "part.png", data))
            assert np.array_equal(learnt, seen)
            assert np.array_equal(seen, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_upright_by_its_tag(orientation: int) -> None:
    """All of its eight values."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = saved(COLOUR, "TIFF", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(np.frombuffer(data, np.uint8)).pixels, expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_any_other_kind_is_refused_on_both_sides_in_the_same_words(tmp_path: Path, kind: str) -> None:
    """One line, with the file, what it is and what to save instead; the name says nothing."""
    data, why = REFUSED[kind]
    learn, see = on_both_sides(tmp_path, "part.png", data)
    with pytest.raises(DataError, match=why) as by_calibration:
        learn()
    with pytest.raises(CameraError, match=why) as by_line:
        see()
    said = str(by_line.value)
    assert said == str(by_calibration.value)
    assert said.startswith(f"{tmp_path / 'part.png'}: ")
    assert "\n" not in said
    assert "save it as" in said or "is no image of a kind that is read (PNG, JPEG, BMP, TIFF, WebP)" in said


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"\0\0\0\x18ftypmsf1", "HEIF"),
        (b"\0\0\0\x18ftyphevc", "HEIC"),
        (b"II\xbc\x01", "JPEG XR"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"PF\n3 3\n-1.0\n", "PFM"),
        (b"\x93NUMPY", "NumPy"),
        (b"P7\nWIDTH 3", "PNM"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_what_a_refused_file_is_is_said(first: bytes, name: str) -> None:
    """Formats that are known by their first bytes."""
    with pytest.raises(PictureError, match=f"is .*{name}, which is not read; save it as PNG"):
        decode(np.frombuffer(first + bytes(64), np.uint8))


@pytest.mark.parametrize("kind", ["png 16 bit", "tiff grey plain", "bmp rgb", "webp", "gif", "tiff of pages", "jpeg"])
@pytest.mark.parametrize("name", ["part.avi", "part.png"])
def test_a_picture_is_no_video(tmp_path: Path, kind: str, name: str) -> None:
    """FFmpeg would read it in its own way: 8 bits of 16, the first of several pages."""
    data = {**READ, **REFUSED, "jpeg": (saved(COLOUR, "JPEG"), "")}[kind][0]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CameraError, match="which is no video; give the folder"):
        VideoCamera(VideoCameraSettings(kind="video", path=tmp_path / name))


def test_jpegs_in_a_row_are_a_video(tmp_path: Path) -> None:
    """Some cameras write Motion JPEG without a container."""
    (tmp_path / "parts.mjpeg").write_bytes(saved(SMOOTH, "JPEG") * 3)
    camera = VideoCamera(VideoCameraSettings(kind="video", path=tmp_path / "parts.mjpeg"))
    assert camera.grab(1.0).image.shape == SMOOTH.shape
    camera.close()


def test_no_image_starts_a_program(tmp_path: Path) -> None:
    """A PostScript file that is named as a PNG is refused; `gs`, first in the PATH, is not asked."""
    witness = tmp_path / "started"
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {witness}\n")
    gs.chmod(0o755)
    (tmp_path / "part.png").write_bytes(REFUSED["eps"][0])
    program = (
        "import sys; from pathlib import Path; from calibration.images import load_image; load_image(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "part.png")],
        env={"PATH": f"{gs.parent}:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PostScript" in done.stderr
    assert not witness.exists()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("picture", [GREY, COLOUR, DEEP], ids=["grey", "rgb", "deep"])
def test_a_tiff_whose_strips_do_not_unpack_is_refused(picture: np.ndarray, compression: str) -> None:
    """Zeros, ones or the end of the file in place of half a strip: libtiff would show black or the rows before."""
    large = np.tile(picture, (12, 10, 1) if picture.ndim == 3 else (12, 10))
    data = saved(large, "TIFF", compression=compression)
    decode(np.frombuffer(data, np.uint8))
    at, length = _first_strip(data)
    for fill in (b"\0", b"\xff") if compression != "packbits" else (b"\x7f",):
        damaged = data[: at + length // 2] + fill * (length - length // 2) + data[at + length :]
        with pytest.raises(PictureError, match="damaged"):
            decode(np.frombuffer(damaged, np.uint8))


def _first_strip(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.tag_v2[273][0], opened.tag_v2[279][0]


@pytest.mark.parametrize("kind", [kind for kind in READ if not kind.startswith("webp rgba")])
def test_a_file_that_is_cut_off_is_refused(kind: str) -> None:
    """Anywhere in its last two thirds: no half part is judged."""
    data = READ[kind][0]
    for share in (0.4, 0.7, 0.95):
        with pytest.raises(PictureError):
            decode(np.frombuffer(data[: int(len(data) * share)], np.uint8))


def test_a_jpeg_that_is_cut_off_is_refused() -> None:
    """Its decoder would fill the rest with grey."""
    data = saved(SMOOTH, "JPEG", quality=90)
    for share in (0.5, 0.8, 0.99):
        with pytest.raises(PictureError, match="damaged"):
            decode(np.frombuffer(data[: int(len(data) * share)], np.uint8))
