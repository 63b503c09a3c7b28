"""The camera `folder`: the images of one folder, in natural name order."""

from __future__ import annotations

import re
import time
from pathlib import Path

from engines.pictures import SUFFIXES, PictureError, read_picture
from inspectd.camera import Shot
from inspectd.camera_sections import FolderCameraSettings
from inspectd.errors import CameraError, EndOfFootage
from inspectd.messages import DeepImage


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


def read_image(file: Path) -> DeepImage:
    """Decode one image file to (H, W, 3) RGB, uint8 or uint16 (docs/pictures.md). Raises CameraError with the file."""
    try:
        return read_picture(file).pixels
    except PictureError as error:
        raise CameraError(str(error)) from error


def natural_key(file: Path) -> list[tuple[int, str]]:
    """Sort key of a file's name in which runs of digits compare as numbers."""
    return [(int(run), "") if run.isdigit() else (-1, run.lower()) for run in re.split(r"(\d+)", file.name)]
