"""The camera `folder`: the images of one folder, in natural name order."""

from __future__ import annotations

import re
import stat
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.camera import Shot
from inspectd.camera_sections import FolderCameraSettings
from inspectd.cameras.decoding import quiet_opencv, to_rgb
from inspectd.cameras.headers import claimed_size
from inspectd.errors import CameraError, EndOfFootage
from inspectd.messages import Image

JPEG_MAGIC = b"\xff\xd8"
MAX_PIXELS = 64_000_000  # as in calibration
MAX_FILE_BYTES = 1 << 29
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


class FolderCamera:
    """Images of a folder, not of its sub-folders, part_2 before part_10; files not named as images are left out.

    The constructor raises CameraError where the folder is missing, unreadable or holds no image.
    """

    def __init__(self, settings: FolderCameraSettings) -> None:
        self._folder = settings.path
        self._loop = settings.loop
        self._files = list_images(settings.path)
        self._next = 0
        self._closed = False

    def grab(self, timeout_s: float) -> Shot:
        """Read and decode the next image; blocks for the disk only, whatever `timeout_s` says.

        Raises CameraError that names a file which cannot be decoded (the next call goes on with the file after it),
        EndOfFootage after the last one.
        """
        if self._next >= len(self._files):
            if self._closed:
                raise CameraError(f"{self._folder}: the camera is closed")
            if not self._loop:
                raise EndOfFootage(f"{self._folder}: no further image")
            self._next = 0
        file = self._files[self._next]
        self._next += 1
        return Shot(image=read_image(file), captured_ns=time.monotonic_ns(), source=str(file))

    def close(self) -> None:
        """Forget the files; a second call does nothing."""
        self._files = []
        self._closed = True


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder in natural name order. Raises CameraError where there is none."""
    try:
        files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    except OSError as error:
        raise CameraError(f"{folder}: cannot be read as an image folder: {error.strerror}") from error
    if not files:
        raise CameraError(f"{folder}: holds no image (png, jpg, bmp, tif or webp)")
    return sorted(files, key=natural_key)


def read_image(file: Path) -> Image:
    """Decode one image file to (H, W, 3) uint8 RGB. Raises CameraError that names the file.

    What its header claims is checked before anything is unpacked: at most MAX_PIXELS.
    """
    data = _read(file)
    try:
        width, height = claimed_size(data.data)
    except ValueError as error:
        raise CameraError(f"{file}: {error}") from error
    if width * height > MAX_PIXELS:
        raise CameraError(f"{file}: {width}x{height} pixels; the most is {MAX_PIXELS // 1_000_000} megapixels")
    try:
        with quiet_opencv():
            native = cv2.imdecode(data, _flags(data))
    except cv2.error as error:
        raise CameraError(f"{file}: cannot be decoded: {error.err}") from error
    if native is None:
        raise CameraError(f"{file}: is no image, or a damaged one")
    try:
        return to_rgb(native)
    except ValueError as error:
        raise CameraError(f"{file}: {error}") from error


def _read(file: Path) -> NDArray[np.uint8]:
    """The bytes of a regular file: a pipe named like an image would be waited for without end."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CameraError(f"{file}: is no file")
        if found.st_size > MAX_FILE_BYTES:
            raise CameraError(f"{file}: {found.st_size} bytes; the most is {MAX_FILE_BYTES}")
        return np.fromfile(file, np.uint8)
    except OSError as error:
        raise CameraError(f"{file}: cannot be read: {error.strerror}") from error


def _flags(data: NDArray[np.uint8]) -> int:
    """Everything as stored, but a JPEG upright as its EXIF tag says: calibration reads its parts so, too."""
    is_jpeg = data[:2].tobytes() == JPEG_MAGIC
    return cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR if is_jpeg else cv2.IMREAD_UNCHANGED


def natural_key(file: Path) -> list[tuple[int, str]]:
    """Sort key of a file's name in which runs of digits compare as numbers."""
    return [(int(run), "") if run.isdigit() else (-1, run.lower()) for run in re.split(r"(\d+)", file.name)]
