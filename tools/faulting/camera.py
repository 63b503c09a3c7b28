"""A camera that fails when the board says so, around the station's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from faulting.board import Board, Injection, Kind
from inspectd.camera import Camera, Shot
from inspectd.errors import CameraError, CameraLost, CameraTimeout

AGE_NS = 10_000_000_000
SPOILING = frozenset(kind for kind in Kind if kind.value.startswith("camera.")) - {Kind.CAMERA_UNPLUGGED}


class FaultyCamera:
    """The station's camera; what it gives, and when, is spoilt as the board says. Opening fails while unplugged."""

    def __init__(self, open_camera: Callable[[], Camera], board: Board) -> None:
        _refuse_where_unplugged(board)
        self._camera = open_camera()
        self._board = board
        self._last: Shot | None = None

    def grab(self, timeout_s: float) -> Shot:
        """The camera's next shot, or a spoilt one, or what the camera's own fault would raise."""
        _refuse_where_unplugged(self._board)
        injection = self._board.take(SPOILING)
        if injection is None:
            self._last = self._camera.grab(timeout_s)
            return self._last
        if injection.kind is Kind.CAMERA_ERROR:
            raise CameraError("injected: the image cannot be read")
        if injection.kind is Kind.CAMERA_SILENT:
            time.sleep(timeout_s)
            raise CameraTimeout(f"injected: no image came within {timeout_s:g} s")
        if injection.kind is Kind.CAMERA_SLOW:
            time.sleep(injection.amount_s)
            return self._camera.grab(timeout_s)
        return self._spoilt(injection, timeout_s)

    def close(self) -> None:
        """Release the camera."""
        self._camera.close()

    def _spoilt(self, injection: Injection, timeout_s: float) -> Shot:
        if injection.kind in (Kind.CAMERA_FROZEN, Kind.CAMERA_DUPLICATE):
            self._last = self._last or self._camera.grab(timeout_s)
            now_ns = time.monotonic_ns()
            return replace(self._last, image=self._last.image.copy(), captured_ns=now_ns)
        shot = self._camera.grab(timeout_s)
        if injection.kind is Kind.CAMERA_STALE:
            return replace(shot, captured_ns=shot.captured_ns - AGE_NS)
        if injection.kind is Kind.CAMERA_WRONG_SHAPE:
            return replace(shot, image=shot.image[::2, ::2].copy())
        image = shot.image.copy()  # CAMERA_TRUNCATED: the lower half never came
        image[image.shape[0] // 2 :] = 0
        return replace(shot, image=image)


def _refuse_where_unplugged(board: Board) -> None:
    if board.take({Kind.CAMERA_UNPLUGGED}) is not None:
        raise CameraLost("injected: the camera is unplugged")
