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
from inspectd.cameras.live import KEPT_AT_MOST, Native
from inspectd.errors import CameraLost

PATIENCE_S = 20.0
BITS = 12
BAR_PX = 8
PERIOD_S = 0.005
HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=image\r\n\r\n"


class Stream:
    """Sends numbered images to the one that connects, until it is told to hang up."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}/line.mjpg"
        self.sent = self.taken = 0
        self.ahead_at_most = 1 << BITS
        self.over = threading.Event()
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
                if self.sent - self.taken == self.ahead_at_most:
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


def settings(stream: Stream) -> OpenCvCameraSettings:
    """A camera on that stream."""
    return OpenCvCameraSettings(kind="opencv", source=stream.address)


def fresh(camera: Camera, triggered_ns: int) -> Shot:
    """The first image that came after a trigger, as the acquisition looks for it."""
    while (shot := camera.grab(PATIENCE_S)).captured_ns < triggered_ns:
        pass
    return shot


def test_a_trigger_gets_the_part_that_is_there_now(stream: Stream) -> None:
    """However long nobody asked: no image that a driver or socket has buffered meanwhile is taken for a fresh one."""
    camera = open_camera(settings(stream))
    for _ in range(3):
        stream.until_sent(stream.sent + 100)
        sent_before = stream.sent
        shot = fresh(camera, time.monotonic_ns())
        assert number_of(shot) > sent_before - 80  # a busy machine's reader may be behind; nobody asked for 100
    camera.close()


def test_where_each_image_is_a_part_none_is_passed_over(stream: Stream) -> None:
    """They come in order, one after the other, also those that arrived before they were asked for."""
    stream.ahead_at_most = KEPT_AT_MOST
    camera = open_camera(settings(stream), every_image=True)
    for number in range(40):
        assert number_of(camera.grab(PATIENCE_S)) == number
        stream.taken = number + 1
    camera.close()


def test_a_stream_that_hangs_up_is_lost(stream: Stream) -> None:
    """Whoever waits for an image is told, not left to wait."""
    camera = open_camera(settings(stream))
    camera.grab(PATIENCE_S)
    stream.close()
    with pytest.raises(CameraLost, match="the device failed 5 times in a row"):
        fresh(camera, time.monotonic_ns() + 10**15)
    camera.close()
    camera.close()
