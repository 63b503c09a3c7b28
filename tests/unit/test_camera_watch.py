"""The watched camera: what it refuses, and how it outlives its device."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import numpy as np
import pytest

from inspectd import camera_watch
from inspectd.camera import Shot
from inspectd.camera_watch import WatchedCamera
from inspectd.errors import CameraError, CameraLost, CameraTimeout, ImageRepeated
from inspectd.health.meters import Count, Meters
from inspectd.messages import Image
from inspectd.seen_images import SeenImages

PATIENCE_S = 20.0
NOISE = np.random.default_rng(5).integers(0, 255, (100, 20, 30, 3), np.uint8)


class Device:
    """Gives what the script says: an image, or an error to raise."""

    def __init__(self, script: list[Image | Exception]) -> None:
        self.script = script
        self.closed = False

    def grab(self, timeout_s: float) -> Shot:
        """The next step of the script."""
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return Shot(image=step, captured_ns=1)

    def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_watch, "FIRST_PAUSE_S", 0.001)


def watched(
    open_camera: Callable[[], Device], *, refuse_repeated: bool = True, fixed_size: bool = True
) -> tuple[WatchedCamera, Meters]:
    """A watched camera, and what it counts."""
    meters = Meters()
    seen = SeenImages() if refuse_repeated else None
    made = WatchedCamera(open_camera, seen=seen, fixed_size=fixed_size, meters=meters)
    return made, meters


def grab_until_open(camera: WatchedCamera) -> Shot:
    """The first shot of the reopened device; until then each grab says at once that the camera is lost."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return camera.grab(1)
        except CameraLost:
            assert time.monotonic() < give_up_s
            time.sleep(0.001)


def test_a_lost_device_is_opened_again_until_that_works() -> None:
    """The lost device is released; failing attempts are repeated; health says so meanwhile, and no longer."""
    devices = [Device([NOISE[0], CameraLost("unplugged")]), Device([NOISE[1]])]
    first = devices[0]
    refusals = [CameraError("no such device")] * 3

    def open_device() -> Device:
        if len(devices) == 1 and refusals:
            raise refusals.pop()
        return devices.pop(0)

    camera, meters = watched(open_device)
    camera.grab(1)
    with pytest.raises(CameraLost, match="unplugged"):
        camera.grab(1)
    assert meters.camera_fault
    shot = grab_until_open(camera)
    assert shot.image is NOISE[1] or np.array_equal(shot.image, NOISE[1])
    assert refusals == []
    assert first.closed
    assert meters.camera_fault == ""
    assert meters.counts()[Count.CAMERA_REOPENED] == 1


def test_a_driver_that_hangs_while_it_opens_holds_up_nobody() -> None:
    """Each part is told at once that the camera is lost; closing does not wait either."""
    hold, opening = Event(), Event()
    devices = [Device([CameraLost("unplugged")]), Device([NOISE[0]])]
    late = devices[1]

    def open_device() -> Device:
        if len(devices) == 1:
            opening.set()
            hold.wait(PATIENCE_S)
        return devices.pop(0)

    camera, _ = watched(open_device)
    for _turn in range(3):
        with pytest.raises(CameraLost, match="unplugged"):
            camera.grab(1)
    assert opening.wait(PATIENCE_S)
    camera.close()
    hold.set()
    give_up_s = time.monotonic() + PATIENCE_S
    while not late.closed:  # opened after the end: released again
        assert time.monotonic() < give_up_s
        time.sleep(0.001)


def test_a_repeated_image_is_refused_and_a_frozen_camera_opened_again() -> None:
    """One repeat is one refused part; the sixth equal image in a row costs the device its place."""
    devices = [
        Device([NOISE[0], NOISE[0].copy(), NOISE[1], *[NOISE[1].copy() for _ in range(5)]]),
        Device([NOISE[1], NOISE[2]]),
    ]
    camera, meters = watched(lambda: devices.pop(0))
    camera.grab(1)
    with pytest.raises(ImageRepeated):
        camera.grab(1)
    assert "given before" in meters.camera_fault
    camera.grab(1)
    assert meters.camera_fault == ""
    for _turn in range(5):
        with pytest.raises(ImageRepeated):
            camera.grab(1)
    assert "frozen" in meters.camera_fault
    with pytest.raises(ImageRepeated):  # a fresh device that shows what the old one did is as frozen
        grab_until_open(camera)
    assert "frozen" in meters.camera_fault
    assert np.array_equal(camera.grab(1).image, NOISE[2])
    assert meters.camera_fault == ""


def test_a_camera_whose_every_image_is_the_same_never_gives_a_part() -> None:
    """Whatever is opened again: one image of the first device, and no other until a different one comes."""
    opened: list[Device] = []

    def open_device() -> Device:
        opened.append(Device([NOISE[0].copy() for _ in range(200)]))
        return opened[-1]

    camera, meters = watched(open_device)
    passed = 0
    while len(opened) < 6:
        try:
            camera.grab(1)
            passed += 1
        except ImageRepeated:
            assert meters.camera_fault
        except CameraLost:
            time.sleep(0.001)
    assert passed == 1


def test_old_buffers_that_are_handed_out_in_turn_are_found() -> None:
    """A driver with three buffers that no longer fills them: each gives a part once."""
    camera, meters = watched(lambda: Device([NOISE[turn % 3].copy() for turn in range(60)]))
    outcomes = []
    for _turn in range(8):
        try:
            camera.grab(1)
            outcomes.append(True)
        except ImageRepeated:
            outcomes.append(False)
    assert outcomes == [True] * 3 + [False] * 5
    assert "frozen" in meters.camera_fault


def test_footage_may_repeat_itself() -> None:
    """Where the settings do not refuse them, equal images are images."""
    camera, _ = watched(lambda: Device([NOISE[0]] * 20), refuse_repeated=False)
    for _turn in range(20):
        camera.grab(1)


def test_an_almost_equal_image_is_another_one() -> None:
    """One pixel decides, wherever it lies."""
    other = NOISE[0].copy()
    other[7, 3, 1] ^= 1
    camera, _ = watched(lambda: Device([NOISE[0], other]))
    camera.grab(1)
    camera.grab(1)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 4), np.uint8),
        np.zeros((20, 30, 3), np.float32),
        np.zeros((0, 30, 3), np.uint8),
        np.zeros((10, 15, 3), np.uint8),
    ],
)
def test_what_is_no_image_of_this_camera_is_refused(wrong: Image) -> None:
    """Wrong dimensions, type or size: one part is refused, and the camera is kept."""
    camera, meters = watched(lambda: Device([NOISE[0], wrong, NOISE[1]]))
    camera.grab(1)
    with pytest.raises(CameraError, match="the camera gave"):
        camera.grab(1)
    camera.grab(1)
    assert meters.camera_fault == ""


def test_a_folder_may_hold_images_of_any_size() -> None:
    """Where the settings do not fix the size, it may change."""
    camera, _ = watched(lambda: Device([NOISE[0], NOISE[1][:10]]), fixed_size=False)
    camera.grab(1)
    camera.grab(1)


def test_a_time_out_costs_one_part_only() -> None:
    """A camera that did not answer once is kept."""
    camera, meters = watched(lambda: Device([CameraTimeout("no image"), NOISE[0]]))
    with pytest.raises(CameraTimeout):
        camera.grab(1)
    camera.grab(1)
    assert meters.counts()[Count.CAMERA_REOPENED] == 0
