"""The camera `opencv`: a V4L2 device or a network stream, through OpenCV."""

from __future__ import annotations

import time

import cv2

from inspectd.camera import Shot
from inspectd.camera_sections import OpenCvCameraSettings
from inspectd.cameras.decoding import quiet_opencv, to_rgb
from inspectd.errors import CameraError, CameraLost, CameraTimeout

OPEN_TIMEOUT_MS = 5_000
READ_TIMEOUT_MS = 2_000
FAILURES_BEFORE_LOST = 5


class OpenCvCamera:
    """A live camera. The constructor blocks up to 5 s; raises CameraError where the device or stream does not open."""

    def __init__(self, settings: OpenCvCameraSettings) -> None:
        self._source = settings.source
        self._exposure_us = settings.exposure_us
        self._failures = 0
        with quiet_opencv():
            self._capture = _open(settings.source)
        if not self._capture.isOpened():
            raise CameraError(
                f"camera {self._source}: cannot be opened; is it connected, free, and are you allowed to read it?"
            )
        _configure(self._capture, settings)

    def grab(self, timeout_s: float) -> Shot:
        """Block for the next image, at most about `timeout_s` where the driver keeps to time-outs, else its own limit.

        Raises CameraTimeout where no image came, CameraLost once several in a row did not.
        """
        if not self._capture.isOpened():
            raise CameraLost(f"camera {self._source}: is closed")
        with quiet_opencv():
            self._capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, max(1, round(timeout_s * 1000)))
            grabbed = self._capture.grab()
            captured_ns = time.monotonic_ns()
            done, native = self._capture.retrieve() if grabbed else (False, None)
        if not done or native is None:
            self._failures += 1
            if self._failures >= FAILURES_BEFORE_LOST:
                raise CameraLost(f"camera {self._source}: lost, {self._failures} images in a row did not come")
            raise CameraTimeout(f"camera {self._source}: no image came within {timeout_s:g} s")
        self._failures = 0
        return Shot(
            image=to_rgb(native),
            captured_ns=captured_ns,
            exposure_us=self._exposure_us,
            source=f"opencv:{self._source}",
        )

    def close(self) -> None:
        """Release the device; a second call does nothing."""
        self._capture.release()


def _open(source: str) -> cv2.VideoCapture:
    if source.isdigit():
        return cv2.VideoCapture(int(source), cv2.CAP_V4L2)
    if source.startswith("/dev/"):
        return cv2.VideoCapture(source, cv2.CAP_V4L2)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _configure(capture: cv2.VideoCapture, settings: OpenCvCameraSettings) -> None:
    """Ask for size and exposure; one buffer only, so that a trigger never gets an old image. Drivers may decline."""
    with quiet_opencv():
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if settings.width_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width_px)
        if settings.height_px is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height_px)
        if settings.exposure_us is not None:
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)
            capture.set(cv2.CAP_PROP_EXPOSURE, settings.exposure_us / 100)
