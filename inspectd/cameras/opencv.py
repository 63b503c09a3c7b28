"""The camera `opencv`: a V4L2 device or a network stream, through OpenCV."""

from __future__ import annotations

import os

import cv2

from engines.pictures import quiet_opencv
from inspectd.camera import Shot
from inspectd.camera_sections import OpenCvCameraSettings
from inspectd.cameras.decoding import to_image
from inspectd.cameras.live import LiveReader
from inspectd.errors import CameraError

OPEN_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 2_000
V4L2_PATIENCE = ("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
"""Seconds for which OpenCV waits for a V4L2 device, by its environment only; 10 where it is not set."""


class OpenCvCamera:
    """A live camera. The constructor blocks up to 5 s; raises CameraError where the device or stream does not open.

    every_image: each image that arrives is a part. Else `grab` gives the newest ones, with the time of their arrival.
    """

    def __init__(self, settings: OpenCvCameraSettings, *, every_image: bool = False) -> None:
        self._source = settings.source
        self._exposure_us = settings.exposure_us
        with quiet_opencv():
            capture = _open(settings.source)
        if not capture.isOpened():
            raise CameraError(
                f"camera {self._source}: cannot be opened; is it connected, free, and are you allowed to read it?"
            )
        _configure(capture, settings)
        self._reader = LiveReader(capture, self._source, every_image=every_image)

    def grab(self, timeout_s: float) -> Shot:
        """Block for the next image, at most `timeout_s`. Raises as LiveReader.next."""
        native, captured_ns = self._reader.next(timeout_s)
        return Shot(
            image=to_image(native, f"camera {self._source}"),
            captured_ns=captured_ns,
            exposure_us=self._exposure_us,
            source=f"opencv:{self._source}",
        )

    def close(self) -> None:
        """Release the device; a second call does nothing."""
        self._reader.close()


def _open(source: str) -> cv2.VideoCapture:
    os.environ.setdefault(*V4L2_PATIENCE)
    if source.isdigit():
        return cv2.VideoCapture(int(source), cv2.CAP_V4L2)
    if source.startswith("/dev/"):
        return cv2.VideoCapture(source, cv2.CAP_V4L2)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _configure(capture: cv2.VideoCapture, settings: OpenCvCameraSettings) -> None:
    """Ask for size and exposure; drivers may decline. The number of buffers stays theirs: the reader empties them."""
    with quiet_opencv():
        if settings.width_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width_px)
        if settings.height_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height_px)
        if settings.exposure_us is not None:
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)
            capture.set(cv2.CAP_PROP_EXPOSURE, settings.exposure_us / 100)
