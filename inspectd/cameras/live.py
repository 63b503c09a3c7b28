"""A thread that reads a live device all the time, so that no image of it grows old in a driver's buffer."""

from __future__ import annotations

import time
from collections import deque
from threading import Condition, Event, Thread
from typing import Any, Protocol

import cv2
from numpy.typing import NDArray

from inspectd.cameras.decoding import quiet_opencv
from inspectd.errors import CameraError, CameraLost, CameraTimeout

Native = NDArray[Any]
FAILURES_BEFORE_LOST = 5
PAUSE_AFTER_FAILURE_S = 0.02
SILENCE_S = 0.5
"""A driver that waited so long and then says that it has no image is silent; one that says so at once has failed."""
KEPT_AT_MOST = 8
CLOSING_S = 2.0


class Capture(Protocol):
    """What of cv2.VideoCapture is used."""

    def grab(self) -> bool:
        """Wait for the next image, without unpacking it."""

    def retrieve(self) -> tuple[bool, Native | None]:
        """Unpack it."""

    def release(self) -> None:
        """Let go of the device."""


class LiveReader:
    """Owns an open device from now on, and releases it.

    every_image: each image is a part, so all are kept until they are taken, KEPT_AT_MOST of them. Else one is unpacked
    only when it is asked for, and those that nobody waits for are passed over. Used by one thread.
    """

    def __init__(self, capture: Capture, name: str, *, every_image: bool) -> None:
        self._capture, self._name = capture, name
        self._every_image = every_image
        self._changed = Condition()
        self._waiting: deque[tuple[Native | None, int]] = deque()
        self._asked = every_image
        self._overrun = 0
        self._silences = 0
        self._over = ""
        self._closing = Event()
        self._thread = Thread(target=self._read, name="camera-reader", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> tuple[Native, int]:
        """Block for the next image as the device gives it; returns it with the monotonic time in ns of its arrival.

        Raises CameraTimeout where none came, CameraLost where the device is gone or, unless each image is a part,
        stayed silent several times in a row; CameraError for an image that came damaged or was not taken in time.
        """
        with self._changed:
            if not self._every_image:
                self._waiting.clear()
                self._asked = True
            self._changed.wait_for(lambda: self._waiting or self._over, timeout_s)
            self._asked = self._every_image
            if self._overrun:
                overrun, self._overrun = self._overrun, 0
                raise CameraError(f"camera {self._name}: {overrun} images came faster than they were taken")
            if not self._waiting:
                raise self._nothing(timeout_s)
            native, captured_ns = self._waiting.popleft()
        self._silences = 0
        if native is None:
            raise CameraError(f"camera {self._name}: an image came damaged")
        return native, captured_ns

    def close(self) -> None:
        """Have the device released; waits for the driver a little. A second call does nothing."""
        self._closing.set()
        self._end("is closed")
        self._thread.join(CLOSING_S)

    def _nothing(self, timeout_s: float) -> CameraError:
        if self._over:
            return CameraLost(f"camera {self._name}: {self._over}")
        self._silences += 1
        if self._silences >= FAILURES_BEFORE_LOST and not self._every_image:
            return CameraLost(f"camera {self._name}: lost, {self._silences} images in a row did not come")
        return CameraTimeout(f"camera {self._name}: no image came within {timeout_s:g} s")

    def _read(self) -> None:
        """Take images from the device until it is closed or gone."""
        failures = 0
        try:
            with quiet_opencv():
                while not self._closing.is_set() and failures < FAILURES_BEFORE_LOST:
                    failures = 0 if self._read_one() else failures + 1
                    if failures:
                        self._closing.wait(PAUSE_AFTER_FAILURE_S)
        finally:
            self._capture.release()
            self._end(f"lost, the device failed {failures} times in a row")

    def _read_one(self) -> bool:
        """Whether the device is in order: it gave an image, or waited for one."""
        begun_s = time.monotonic()
        try:
            if not self._capture.grab():
                return time.monotonic() - begun_s >= SILENCE_S
            captured_ns = time.monotonic_ns()
            if not self._asked:
                return True
            done, native = self._capture.retrieve()
        except cv2.error:
            done, native = False, None
            captured_ns = time.monotonic_ns()
        if not done and not self._every_image:
            return False  # whoever asked gets the next one
        self._keep(native if done else None, captured_ns)
        return done

    def _keep(self, native: Native | None, captured_ns: int) -> None:
        with self._changed:
            if len(self._waiting) == KEPT_AT_MOST:
                self._waiting.popleft()
                self._overrun += 1
            self._waiting.append((native, captured_ns))
            self._changed.notify_all()

    def _end(self, why: str) -> None:
        with self._changed:
            self._over = self._over or why
            self._changed.notify_all()
