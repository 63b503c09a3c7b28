"""A thread that reads a live device all the time, so that no image of it grows old in a driver's buffer."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from threading import Condition, Event, Thread
from typing import Any, Protocol

import cv2
import structlog
from numpy.typing import NDArray

from engines.pictures import quiet_opencv
from inspectd.errors import CameraError, CameraLost, CameraTimeout

Native = NDArray[Any]
FAILURES_BEFORE_LOST = 5
PAUSE_AFTER_FAILURE_S = 0.02
SILENCE_S = 0.5
"""A driver that waited so long and then says that it has no image is silent; one that says so at once has failed."""
SILENT_AT_MOST_S = 5.0
HUNG_S = 10.0
"""Beyond every time-out that a driver has been given."""
WAITED_NS = 1_000_000
DOUBT_NS = 100_000_000
KEPT_AT_MOST = 8
NEWEST_KEPT = 2
CLOSING_S = 2.0
log = structlog.get_logger(__name__)


class Capture(Protocol):
    """What of cv2.VideoCapture is used."""

    def grab(self) -> bool:
        """Wait for the next image, without unpacking it."""

    def retrieve(self) -> tuple[bool, Native | None]:
        """Unpack it."""

    def release(self) -> None:
        """Let go of the device."""


class LiveReader:
    """Owns an open device from now on, unpacks what comes, and releases it in the end.

    every_image: each image is a part, so KEPT_AT_MOST of them wait to be taken, and those that are pushed out are told
    of. Else the newest are kept, for whoever was triggered by then and looks by their times. Used by one thread.
    """

    def __init__(self, capture: Capture, name: str, *, every_image: bool) -> None:
        self._capture, self._name = capture, name
        self._every_image = every_image
        self._changed = Condition()
        self._waiting: deque[tuple[Native | None, int]] = deque()
        self._overrun = 0
        self._silences = 0
        self._over = ""
        self._policy = os.SCHED_OTHER
        self._closing = Event()
        self._arrived_ns = self._called_ns = time.monotonic_ns()
        self._in_call = False
        self._thread = Thread(target=self._read, name="camera-reader", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> tuple[Native, int]:
        """Block for the next image as the device gives it, and when it arrived, by the monotonic clock in ns.

        An image that lay in the driver's buffer has the earliest time at which it can have come there. Raises
        CameraTimeout where none came, CameraLost where the device is gone or hangs or, unless each image is a part,
        gave none for SILENT_AT_MOST_S; CameraError for an image that came damaged or was not taken in time.
        """
        self._share_priority()
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over, timeout_s)
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
        if self._thread.is_alive():
            log.error("the camera's driver hangs: its device opens again only once that ends", camera=self._name)

    def _share_priority(self) -> None:
        """What waits for an image is urgent; then so is what takes it from the driver."""
        policy = os.sched_getscheduler(0)
        if policy != self._policy and self._thread.native_id is not None:
            self._policy = policy
            with suppress(OSError):  # the thread has ended, or the system refuses: `process` tells what it refused
                os.sched_setscheduler(self._thread.native_id, policy, os.sched_getparam(0))

    def _nothing(self, timeout_s: float) -> CameraError:
        if self._over:
            return CameraLost(f"camera {self._name}: {self._over}")
        now_ns = time.monotonic_ns()
        if self._in_call and now_ns - self._called_ns > HUNG_S * 1e9:
            return CameraLost(f"camera {self._name}: lost, its driver hangs")
        self._silences += 1
        silent_s = (now_ns - self._arrived_ns) / 1e9
        if self._silences >= FAILURES_BEFORE_LOST and silent_s > SILENT_AT_MOST_S and not self._every_image:
            return CameraLost(f"camera {self._name}: lost, no image came for {silent_s:.0f} s")
        return CameraTimeout(f"camera {self._name}: no image came within {timeout_s:g} s")

    def _read(self) -> None:
        """Take images from the device until it is closed or gone."""
        failures = 0
        why = ""
        try:
            with quiet_opencv():
                while not self._closing.is_set() and failures < FAILURES_BEFORE_LOST:
                    failures = 0 if self._read_one() else failures + 1
                    if failures:
                        self._closing.wait(PAUSE_AFTER_FAILURE_S)
            why = f"the device failed {failures} times in a row"
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            log.exception("the camera's reader failed in an unexpected way", camera=self._name)
        self._end(f"lost, {why}")
        self._capture.release()

    def _read_one(self) -> bool:
        """Whether the device is in order: it gave an image, or waited for one."""
        try:
            grabbed, waited_ns = self._grab()
            if not grabbed:
                return waited_ns >= SILENCE_S * 1e9
            now_ns = time.monotonic_ns()
            if self._every_image or waited_ns >= WAITED_NS:
                self._arrived_ns = now_ns
            elif now_ns - self._arrived_ns > DOUBT_NS:
                return True  # nobody can tell how long it lay in the driver's buffer; soon one is waited for
            done, native = self._capture.retrieve()
        except cv2.error:
            done, native = False, None
        if done or self._every_image:
            self._keep(native if done else None, self._arrived_ns)
        return done

    def _grab(self) -> tuple[bool, int]:
        self._called_ns = time.monotonic_ns()
        self._in_call = True
        try:
            return self._capture.grab(), time.monotonic_ns() - self._called_ns
        finally:
            self._in_call = False

    def _keep(self, native: Native | None, captured_ns: int) -> None:
        with self._changed:
            if len(self._waiting) == (KEPT_AT_MOST if self._every_image else NEWEST_KEPT):
                self._waiting.popleft()
                self._overrun += self._every_image
            self._waiting.append((native, captured_ns))
            self._changed.notify_all()

    def _end(self, why: str) -> None:
        with self._changed:
            self._over = self._over or why
            self._changed.notify_all()
