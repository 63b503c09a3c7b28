"""The board of injected faults: which of them happens next, and which is over."""

from __future__ import annotations

import pytest
from faulting.board import REMEMBERED, Board, Injection, Kind

FROZEN, HANG = frozenset({Kind.CAMERA_FROZEN}), frozenset({Kind.ENGINE_HANG})


def test_faults_happen_in_order_and_as_often_as_armed() -> None:
    """The oldest fault of a kind happens first, for as many parts as it says; other kinds wait for their turn."""
    board = Board()
    twice, hang = board.arm(Injection(kind=Kind.CAMERA_FROZEN, parts=2)), board.arm(Injection(kind=Kind.ENGINE_HANG))
    once = board.arm(Injection(kind=Kind.CAMERA_FROZEN))
    spoilt = [board.take(FROZEN) for _ in range(4)]
    assert [injection and injection.parts for injection in spoilt] == [2, 2, 1, None]
    assert [board.taken(number, 0, 0.0) for number in (twice, hang, once)] == [2, 0, 1]
    assert board.take(HANG) is not None


def test_cleared_faults_do_not_happen() -> None:
    """After a clear, nothing that was armed before spoils a part; how often it happened is still known."""
    board = Board()
    endless = board.arm(Injection(kind=Kind.CAMERA_FROZEN, parts=0))
    assert board.take(FROZEN) is not None
    board.clear()
    assert board.take(FROZEN) is None
    assert board.taken(endless, 1, 0.0) == 1


def test_a_long_run_leaves_only_the_last_faults_behind() -> None:
    """Of many faults that are over, the last ones can be asked for, and an old one is refused by its number."""
    board = Board()
    for _ in range(REMEMBERED + 2):
        last = board.arm(Injection(kind=Kind.CAMERA_FROZEN))
        assert board.take(FROZEN) is not None
    assert board.take(FROZEN) is None
    assert board.taken(last, 1, 0.0) == 1
    with pytest.raises(ValueError, match="number 0"):
        board.taken(0, 1, 0.0)
