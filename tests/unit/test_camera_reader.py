"""The thread that reads a live camera, on a driver that is written down and a clock that only the driver moves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from inspectd.cameras import live
from inspectd.cameras.live import FAILURES_BEFORE_LOST, KEPT_AT_MOST, LiveReader, Native
from inspectd.errors import CameraError, CameraLost, CameraTimeout

PATIENCE_S = 20.0
MS = 1_000_000
Script = list[tuple[str, float]]


class FakeDriver:
    """Each step: what comes (image, damaged, silent, gone), and after how many ms. At the end it hangs in its call."""

    def __init__(self, script: Script, unpack_ms: float) -> None:
        self.script, self.unpack_ms = script, unpack_ms
        self.now_ns = self.begun_ns = 10**12
        self.at_end, self.hang_up, self.released = Event(), Event(), Event()
        self._given, self._damaged = -1, False

    def monotonic_ns(self) -> int:
        """The time now."""
        return self.now_ns

    def grab(self) -> bool:
        """The next step."""
        if not self.script:
            self.at_end.set()
            assert self.hang_up.wait(PATIENCE_S)
            return False
        kind, wait_ms = self.script.pop(0)
        self.now_ns += round(wait_ms * MS)
        self._given += kind in {"image", "damaged"}
        self._damaged = kind == "damaged"
        return kind in {"image", "damaged"}

    def retrieve(self) -> tuple[bool, Native | None]:
        """An image that shows its number, or what OpenCV throws for a damaged one."""
        self.now_ns += round(self.unpack_ms * MS)
        if self._damaged:
            raise cv2.error("imdecode: empty buffer")
        return True, np.full((4, 4, 3), self._given, np.uint8)

    def release(self) -> None:
        """Remember it."""
        self.released.set()


Start = Callable[..., tuple[LiveReader, FakeDriver]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a reader, and waits until it has been through the script."""
    made: list[tuple[LiveReader, FakeDriver]] = []

    def begin(script: Script, *, every_image: bool, unpack_ms: float = 0.0) -> tuple[LiveReader, FakeDriver]:
        driver = FakeDriver(script, unpack_ms)
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic_ns=driver.monotonic_ns))
        made.append((LiveReader(driver, "test", every_image=every_image), driver))
        assert driver.at_end.wait(PATIENCE_S)
        return made[-1]

    yield begin
    for reader, driver in made:
        driver.hang_up.set()
        reader.close()
        assert driver.released.wait(PATIENCE_S)


def taken(reader: LiveReader, driver: FakeDriver) -> tuple[int, float]:
    """Number of the next image, and when it arrived, in ms."""
    native, captured_ns = reader.next(0)
    return int(native[0, 0, 0]), (captured_ns - driver.begun_ns) / MS


def test_the_newest_images_wait_for_whoever_was_triggered_by_then(start: Start) -> None:
    """An image may be here before the message that names its part; who looks for a later one finds by its time."""
    reader, driver = start([("image", 20)] * 5, every_image=False)
    assert [taken(reader, driver) for _ in range(2)] == [(3, 80), (4, 100)]
    with pytest.raises(CameraTimeout, match="no image came within 0 s"):
        reader.next(0)


def test_an_image_that_lay_in_the_drivers_buffer_is_not_young(start: Start) -> None:
    """It bears the earliest time at which it can have come there; where that is long ago, it is passed over."""
    script = [("image", 20), ("image", 0), ("image", 0), ("image", 20)]
    reader, driver = start(script, every_image=False, unpack_ms=60)
    assert [taken(reader, driver) for _ in range(2)] == [(1, 20), (3, 160)]


def test_where_each_image_is_a_part_what_nobody_took_is_told_of(start: Start) -> None:
    """Once, with its number; the others follow in order."""
    reader, driver = start([("image", 5)] * (KEPT_AT_MOST + 3), every_image=True)
    with pytest.raises(CameraError, match="3 images came faster than they were taken"):
        reader.next(0)
    assert [taken(reader, driver)[0] for _ in range(KEPT_AT_MOST)] == list(range(3, KEPT_AT_MOST + 3))


def test_a_camera_that_is_slow_to_start_or_asked_often_is_not_lost(start: Start) -> None:
    """Only seconds without an image are a reason to open it again, however many parts came meanwhile."""
    reader, driver = start([("image", 20)], every_image=False)
    assert taken(reader, driver) == (0, 20)
    driver.now_ns += 4_900 * MS
    for _ in range(10 * FAILURES_BEFORE_LOST):
        with pytest.raises(CameraTimeout):
            reader.next(0)
    driver.now_ns += 200 * MS
    with pytest.raises(CameraLost, match="lost, no image came for 5 s"):
        reader.next(0)


def test_a_line_that_stands_still_has_lost_no_camera(start: Start) -> None:
    """Where each image is a part, none for long means that no part came."""
    reader, _ = start([("silent", 1000)] * (3 * FAILURES_BEFORE_LOST), every_image=True)
    for _ in range(3 * FAILURES_BEFORE_LOST):
        with pytest.raises(CameraTimeout):
            reader.next(0)


@pytest.mark.parametrize("every_image", [True, False])
def test_a_driver_that_hangs_is_a_lost_camera(start: Start, every_image: bool) -> None:
    """No time-out of a driver is that long: whoever waits is told, with triggers or without."""
    reader, driver = start([("image", 20)], every_image=every_image)
    reader.next(0)
    driver.now_ns += 11_000 * MS
    with pytest.raises(CameraLost, match=r"driver hangs"):
        reader.next(0)


def test_a_device_that_fails_at_once_is_lost(start: Start) -> None:
    """Unplugged: it says so again and again, without waiting; what came before is taken first."""
    reader, driver = start([("image", 20), *[("gone", 0.0)] * (FAILURES_BEFORE_LOST - 1)], every_image=True)
    driver.hang_up.set()
    assert driver.released.wait(PATIENCE_S)
    assert taken(reader, driver) == (0, 20)
    with pytest.raises(CameraLost, match="the device failed 5 times in a row"):
        reader.next(PATIENCE_S)


def test_a_damaged_image_is_one_part_not_the_daemon(start: Start) -> None:
    """What OpenCV throws while it unpacks costs the part where each image is one; elsewhere the next image is taken."""
    reader, driver = start([("damaged", 20), ("image", 20)], every_image=True)
    with pytest.raises(CameraError, match="an image came damaged"):
        reader.next(0)
    assert taken(reader, driver) == (1, 40)
    reader, driver = start([("damaged", 20), ("damaged", 20), ("image", 20)], every_image=False)
    assert taken(reader, driver) == (2, 60)


def test_a_closed_camera_says_so(start: Start) -> None:
    """Also to somebody who waits for its next image."""
    reader, driver = start([], every_image=True)
    driver.hang_up.set()
    reader.close()
    with pytest.raises(CameraLost, match="is closed"):
        reader.next(PATIENCE_S)


def test_the_reader_is_as_urgent_as_whoever_waits_for_it(start: Start) -> None:
    """Real-time priority is given to the stage that asks; what takes the image from the driver must have it, too."""
    reader, _ = start([("image", 20)], every_image=True)

    def ask() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # of this thread; needs no permission
        reader.next(0)

    asking = Thread(target=ask)
    asking.start()
    asking.join(PATIENCE_S)
    assert reader._thread.native_id is not None
    assert os.sched_getscheduler(reader._thread.native_id) == os.SCHED_BATCH
