"""The camera `video`: the frames of a video file, one for each grab."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import cv2

from engines.pictures import quiet_opencv, still_picture
from inspectd.camera import Shot
from inspectd.camera_sections import VideoCameraSettings
from inspectd.cameras.decoding import to_image
from inspectd.errors import CameraError, EndOfFootage

LOOKED_AT_BYTES: Final = 1 << 24


class VideoCamera:
    """Frames of a video file in order. The constructor raises CameraError where OpenCV cannot read a frame of it."""

    def __init__(self, settings: VideoCameraSettings) -> None:
        self._path = settings.path
        self._loop = settings.loop
        if not self._path.is_file():
            raise CameraError(f"{self._path}: no such video file")
        _refuse_picture(self._path)
        self._capture = self._open()
        self._frame = 0

    def grab(self, timeout_s: float) -> Shot:
        """Decode the next frame; blocks for the decoder only. Raises EndOfFootage after the last frame, CameraError."""
        if not self._capture.isOpened():
            raise CameraError(f"{self._path}: the camera is closed")
        native = self._read()
        if native is None:
            if not self._loop or self._frame == 0:
                raise EndOfFootage(f"{self._path}: no further frame after {self._frame}")
            self._capture.release()
            self._capture = self._open()
            self._frame = 0
            native = self._read()
            if native is None:
                raise CameraError(f"{self._path}: could be read once and no longer can")
        source = f"{self._path}#{self._frame - 1}"
        return Shot(image=to_image(native, source), captured_ns=time.monotonic_ns(), source=source)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        with quiet_opencv():
            capture = cv2.VideoCapture(str(self._path), cv2.CAP_ANY)
        if not capture.isOpened():
            raise CameraError(f"{self._path}: is no video that OpenCV can read")
        return capture

    def _read(self) -> cv2.typing.MatLike | None:
        """The next frame; None at the end. It counts, also where it cannot be decoded."""
        self._frame += 1
        try:
            with quiet_opencv():
                done, native = self._capture.read()
        except cv2.error as error:
            raise CameraError(f"{self._path}#{self._frame - 1}: cannot be decoded: {error.err}") from error
        self._frame -= not done
        return native if done else None


def _refuse_picture(path: Path) -> None:
    """FFmpeg would read a still picture in its own way, and in 8 bits. Raises CameraError; blocks for the disk."""
    try:
        with path.open("rb") as file:
            kind = still_picture(file.read(LOOKED_AT_BYTES))
    except OSError as error:
        raise CameraError(f"{path}: cannot be read: {error.strerror}") from error
    if kind:
        raise CameraError(f"{path}: is {kind}, which is no video; give the folder of the images")
