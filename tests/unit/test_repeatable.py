"""The same operands give the same bits, wherever they lie in memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.repeatable import distance

ROOT = Path(__file__).parents[2]


def placed(values: NDArray[np.float32], offset: int) -> NDArray[np.float32]:
    """The values, their memory beginning so many elements behind a boundary of 64 bytes."""
    room = np.empty(values.size + 64, np.float32)
    start = (-room.ctypes.data // 4) % 16 + offset
    moved = room[start : start + values.size].reshape(values.shape)
    moved[...] = values
    return moved


@pytest.mark.parametrize("width", [1, 7, 16, 33, 101])
def test_a_distance_does_not_depend_on_alignment(width: int) -> None:
    """Every offset within a cache line, for both operands."""
    rng = np.random.default_rng(0)
    along, across = (rng.normal(0, 30, (23, width)).astype(np.float32) for _ in range(2))
    expected = distance(along, across)
    for offset in range(16):
        for other in (0, offset, 15 - offset):
            assert np.array_equal(distance(placed(along, offset), placed(across, other)), expected)


def test_nothing_is_drawn_with_what_rounds_by_alignment() -> None:
    """The rule that keeps it so, for what calibration and the simulated line draw."""
    folders = ("calibration", "inspectd", "engines", "tools")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        used = re.findall(r"cv2\.(magnitude|cartToPolar|phase|polarToCart|sqrt|exp|log|pow)\(", path.read_text())
        assert not used, f"{path}: cv2.{used[0]}; use engines.repeatable"
