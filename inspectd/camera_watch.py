"""Between the acquisition and its camera: refuses images that no camera may give, and opens a lost camera again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

import numpy as np
import structlog

from inspectd.camera import Camera, Shot
from inspectd.errors import CameraError, CameraLost, ImageRepeated
from inspectd.health.meters import Count, Meters
from inspectd.messages import DeepImage
from inspectd.seen_images import SeenImages

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
DTYPES = (np.uint8, np.uint16)
REPEATS_BEFORE_LOST = 5
MOST_REPEATS_BEFORE_LOST = 80
FROZEN = "the camera is frozen: it gives images that it gave before, also since it was opened again"
log = structlog.get_logger(__name__)


class WatchedCamera:
    """A camera that outlives its device. Used by one thread; the device is opened again in another one.

    Making it opens the device, and raises what that raises. open_camera: opens it; may block. seen: an image that is
    among them is a fault, and several in a row mean that the device is frozen; that is over when another image comes,
    not when the device was opened again. None: images may repeat. fixed_size: an image of another size than the first
    one is a fault.
    """

    def __init__(
        self, open_camera: Callable[[], Camera], *, seen: SeenImages | None, fixed_size: bool, meters: Meters
    ) -> None:
        self._open = open_camera
        self._seen, self._fixed_size = seen, fixed_size
        self._meters = meters
        self._camera: Camera | None = open_camera()
        self._lock = Lock()
        self._fresh: Camera | None = None
        self._opener: Thread | None = None
        self._closed = Event()
        self._lost_s = 0.0
        self._why = ""
        self._shape: tuple[int, ...] | None = None
        self._repeats = 0
        self._before_lost = REPEATS_BEFORE_LOST
        self._frozen = False

    def grab(self, timeout_s: float) -> Shot:
        """Block for the next image. Raises as a camera does; CameraLost at once while the device is being reopened."""
        camera = self._camera or self._reopened()
        try:
            shot = camera.grab(timeout_s)
        except CameraLost as error:
            self._lose(str(error))
            raise
        self._check(shot.image)
        return shot

    def close(self) -> None:
        """Release the device, and stop opening it; waits no longer than a moment for a driver that hangs."""
        self._closed.set()
        with self._lock:
            open_now = [camera for camera in (self._camera, self._fresh) if camera is not None]
            self._camera = self._fresh = None
        for camera in open_now:
            camera.close()

    def _reopened(self) -> Camera:
        """The device that has been opened again. Raises CameraLost where there is none yet."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
            if fresh is None:
                raise CameraLost(f"{self._why}; it is being opened again")
            self._camera = fresh
        down_s = time.monotonic() - self._lost_s
        self._meters.count(Count.CAMERA_REOPENED)
        self._meters.camera_fault = FROZEN if self._frozen else ""
        log.warning("camera opened again", after_s=round(down_s, 3), why=self._why)
        return fresh

    def _lose(self, why: str) -> None:
        """Give the device up, and have it opened again."""
        lost, self._camera = self._camera, None
        self._why, self._lost_s = why, time.monotonic()
        self._repeats = 0
        self._meters.camera_fault = f"{why}; it is being opened again"
        log.error("camera lost: parts are INVALID until it has been opened again", why=why)
        self._opener = Thread(target=self._open_again, args=(lost,), name="camera-opener", daemon=True)
        self._opener.start()

    def _open_again(self, lost: Camera | None) -> None:
        """Release what is left of the device and open it, with pauses that grow to five seconds, until that works."""
        if lost is not None:
            with suppress(Exception):  # whatever a driver throws: the device is given up in any case
                lost.close()
        pause_s = FIRST_PAUSE_S
        while not self._closed.wait(pause_s):
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            try:
                camera = self._open()
            except CameraError as error:
                self._meters.camera_fault = f"the camera is lost, and does not open: {error}"
                continue
            except Exception as error:
                # A driver's own fault must not end the only thread that can bring the camera back.
                self._meters.camera_fault = f"the camera is lost, and does not open: {type(error).__name__}: {error}"
                log.exception("opening the camera failed in an unexpected way; it is tried again")
                continue
            with self._lock:
                if not self._closed.is_set():
                    self._fresh = camera
                    return
            camera.close()

    def _check(self, image: DeepImage) -> None:
        """Raise CameraError for what is no image of this camera, ImageRepeated for one that came before."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in DTYPES or image.size == 0:
            raise CameraError(f"the camera gave {image.dtype} {image.shape}, not (H, W, 3) uint8 or uint16")
        if self._fixed_size:
            self._shape = self._shape or image.shape
            if image.shape != self._shape:
                size, usual = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, self._shape))
                raise CameraError(f"the camera gave an image of {size} pixels, all before were {usual}")
        if self._seen is not None:
            self._check_new(self._seen.is_new(image))

    def _check_new(self, new: bool) -> None:
        """Noise makes any two exposures differ: equal pixels are the same exposure, handed out again."""
        if new:
            if self._repeats or self._frozen:
                self._meters.camera_fault = ""
            self._repeats, self._frozen, self._before_lost = 0, False, REPEATS_BEFORE_LOST
            return
        self._repeats += 1
        self._meters.camera_fault = FROZEN if self._frozen else "the camera gave an image that it had given before"
        if self._repeats >= self._before_lost:
            self._frozen = True
            self._before_lost = min(MOST_REPEATS_BEFORE_LOST, 2 * self._before_lost)
            self._lose(f"the camera is frozen: {self._repeats} images in a row had come before")
        raise ImageRepeated("the camera gave an image that it had given before")
