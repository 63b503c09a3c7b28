"""The live camera on a real stream: MJPEG over HTTP, whose every image shows its number."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from inspectd.camera import Camera, Shot
from inspectd.camera_sections import OpenCvCameraSettings
from inspectd.cameras import open_camera
from inspectd.cameras.live import FAILURES_BEFORE_LOST, KEPT_AT_MOST, LiveReader, Native
from inspectd.errors import CameraError, CameraLost, CameraTimeout

PATIENCE_S = 20.0
BITS = 12
BAR_PX = 8
PERIOD_S = 0.005
HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=image\r\n\r\n"


class Stream:
    """Sends numbered images to the one that connects, until it is told to fall silent or to hang up."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}/line.mjpg"
        self.sent = self.taken = 0
        self.ahead_at_most = 1 << BITS
        self.silent, self.over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def until_sent(self, number: int) -> None:
        """Block until so many images have been sent."""
        give_up_s = time.monotonic() + PATIENCE_S
        while self.sent < number:
            assert time.monotonic() < give_up_s
            time.sleep(PERIOD_S)

    def close(self) -> None:
        """Hang up."""
        self.over.set()
        self._thread.join(PATIENCE_S)
        self._server.close()

    def _serve(self) -> None:
        self._server.settimeout(PATIENCE_S)
        connection, _ = self._server.accept()
        connection.settimeout(PATIENCE_S)
        with connection:
            connection.recv(4096)
            connection.sendall(HEADER)
            while not self.over.wait(PERIOD_S):
                if self.silent.is_set() or self.sent - self.taken == self.ahead_at_most:
                    continue
                image = cv2.imencode(".jpg", numbered(self.sent))[1].tobytes()
                head = b"--image\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image)
                try:
                    connection.sendall(head + image + b"\r\n")
                except OSError:
                    return
                self.sent += 1


def numbered(number: int) -> Native:
    """A bar for each bit that is set."""
    image = np.zeros((48, BITS * BAR_PX, 3), np.uint8)
    for bit in range(BITS):
        image[:, bit * BAR_PX : (bit + 1) * BAR_PX] = 255 if number >> bit & 1 else 0
    return image


def number_of(shot: Shot) -> int:
    """What the bars say."""
    middles = shot.image[24, BAR_PX // 2 :: BAR_PX, 0]
    return sum(1 << bit for bit, level in enumerate(middles) if level > 128)


@pytest.fixture
def stream() -> Iterator[Stream]:
    """A stream that nobody has connected to yet."""
    made = Stream()
    yield made
    made.close()


def take_all(camera: Camera, timeout_s: float) -> None:
    """Take what comes until something is raised: some images may still be on their way."""
    while True:
        camera.grab(timeout_s)


def settings(stream: Stream) -> OpenCvCameraSettings:
    """A camera on that stream."""
    return OpenCvCameraSettings(kind="opencv", source=stream.address)


def test_a_trigger_gets_the_part_that_is_there_now(stream: Stream) -> None:
    """However long nobody asked: no image that a driver or socket has buffered meanwhile is taken for a fresh one."""
    camera = open_camera(settings(stream))
    for _ in range(3):
        stream.until_sent(stream.sent + 60)
        asked_ns, sent_before = time.monotonic_ns(), stream.sent
        shot = camera.grab(PATIENCE_S)
        assert shot.captured_ns >= asked_ns
        assert number_of(shot) > sent_before - 30  # a busy machine's reader may be some behind; nobody asked for 60
    camera.close()


def test_where_each_image_is_a_part_none_is_passed_over(stream: Stream) -> None:
    """They come in order, one after the other, also those that arrived before they were asked for."""
    stream.ahead_at_most = KEPT_AT_MOST
    camera = open_camera(settings(stream), every_image=True)
    for number in range(40):
        assert number_of(camera.grab(PATIENCE_S)) == number
        stream.taken = number + 1
    camera.close()


def test_images_that_nobody_took_are_told_of(stream: Stream) -> None:
    """A line that is faster than its engine loses parts; it says so, once, and goes on with the youngest."""
    camera = open_camera(settings(stream), every_image=True)
    stream.until_sent(stream.sent + 4 * KEPT_AT_MOST)
    with pytest.raises(CameraError, match=r"\d+ images came faster than they were taken"):
        camera.grab(PATIENCE_S)
    assert number_of(camera.grab(PATIENCE_S)) > KEPT_AT_MOST
    camera.close()


def test_a_stream_that_falls_silent_times_out_and_is_then_lost(stream: Stream) -> None:
    """Each part without image is told at once; so is that the camera is to be opened again."""
    camera = open_camera(settings(stream))
    camera.grab(PATIENCE_S)
    stream.silent.set()
    with pytest.raises(CameraTimeout, match=r"no image came within 0\.01 s"):
        take_all(camera, 0.01)
    for _ in range(FAILURES_BEFORE_LOST - 2):
        with pytest.raises(CameraTimeout):
            camera.grab(0.01)
    with pytest.raises(CameraLost, match="5 images in a row did not come"):
        camera.grab(0.01)
    camera.close()


def test_a_line_that_stands_still_has_lost_no_camera() -> None:
    """Where each image is a part, none for long means that no part came."""
    capture = FakeCapture(waits_s=0.6)
    reader = LiveReader(capture, "test", every_image=True)
    for _ in range(3 * FAILURES_BEFORE_LOST):
        with pytest.raises(CameraTimeout):
            reader.next(0.01)
    reader.close()
    assert capture.released.wait(PATIENCE_S)


def test_a_stream_that_hangs_up_is_lost(stream: Stream) -> None:
    """Whoever waits for an image is told, not left to wait."""
    camera = open_camera(settings(stream))
    camera.grab(PATIENCE_S)
    stream.close()
    with pytest.raises(CameraLost, match="the device failed 5 times in a row"):
        take_all(camera, PATIENCE_S)
    camera.close()


def test_a_damaged_image_is_one_part_not_the_daemon() -> None:
    """What OpenCV throws while it unpacks costs the part where each image is one; elsewhere the next image is taken."""
    reader = LiveReader(FakeCapture(damaged=(0,)), "test", every_image=True)
    with pytest.raises(CameraError, match="an image came damaged"):
        reader.next(PATIENCE_S)
    assert reader.next(PATIENCE_S)[0].shape == (4, 4, 3)
    reader.close()
    reader = LiveReader(FakeCapture(damaged=(0, 1)), "test", every_image=False)
    assert reader.next(PATIENCE_S)[0].shape == (4, 4, 3)
    reader.close()


def test_a_closed_camera_says_so_and_hands_the_device_back() -> None:
    """Also while somebody waits for its next image."""
    capture = FakeCapture(waits_s=0.1)
    reader = LiveReader(capture, "test", every_image=True)
    closer = threading.Timer(0.0, reader.close)
    closer.start()
    with pytest.raises(CameraLost, match="is closed"):
        reader.next(PATIENCE_S)
    closer.join(PATIENCE_S)
    assert capture.released.is_set()


class FakeCapture:
    """A driver: silent for so long each time, or with an image at once; some that are unpacked may be damaged."""

    def __init__(self, waits_s: float = 0.0, damaged: tuple[int, ...] = ()) -> None:
        self.waits_s, self.damaged = waits_s, damaged
        self.released = threading.Event()
        self._unpacked = 0

    def grab(self) -> bool:
        """Wait as a driver does."""
        return not self.released.wait(self.waits_s or PERIOD_S) and not self.waits_s

    def retrieve(self) -> tuple[bool, Native | None]:
        """The image, or what OpenCV throws for a damaged one."""
        self._unpacked += 1
        if self._unpacked - 1 in self.damaged:
            raise cv2.error("imdecode: empty buffer")
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        """Remember it."""
        self.released.set()
