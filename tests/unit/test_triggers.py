"""Trigger sources: an absolute timer, and messages."""

from __future__ import annotations

import time
from threading import Event

import pytest

from inspectd import triggers
from inspectd.messages import Position
from inspectd.triggers import Ask, TimerTriggers, parse_message


class Clock:
    """Time that moves only when it is waited for."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def monotonic_ns(self) -> int:
        """The time now."""
        return self.now_ns


class Waiting(Event):
    """An event whose wait takes exactly as long as asked, on the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass."""
        self._clock.now_ns += round((timeout or 0) * 1e9)
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in place of the monotonic one, for the triggers alone."""
    clock = Clock()
    monkeypatch.setattr(triggers, "time", clock)
    assert time.monotonic_ns() > 0
    return clock


def test_the_schedule_does_not_drift(clock: Clock) -> None:
    """However long the caller takes after each trigger, the due times stay on the grid of the first one."""
    timer, stop = TimerTriggers(20), Waiting(clock)
    due = []
    for _ in range(50):
        ask = timer.next(stop)
        assert ask is not None
        due.append(ask.due_ns)
        clock.now_ns += 7_123_457
    assert due == [1_000 + turn * 20_000_000 for turn in range(50)]


def test_what_fell_due_meanwhile_follows_at_once(clock: Clock) -> None:
    """A caller that was busy for five periods gets five requests, each with its own due time."""
    timer, stop = TimerTriggers(20), Waiting(clock)
    timer.next(stop)
    clock.now_ns += 105_000_000
    asked_at = clock.now_ns
    due = [ask.due_ns for ask in (timer.next(stop) for _ in range(5)) if ask is not None]
    assert due == [1_000 + turn * 20_000_000 for turn in range(1, 6)]
    assert clock.now_ns == asked_at


def test_a_long_period_is_waited_for_in_slices(clock: Clock) -> None:
    """The source returns at least each 100 ms, so that the thread can beat and stop."""
    timer, stop = TimerTriggers(1000), Waiting(clock)
    timer.next(stop)
    assert timer.next(stop) is None
    assert clock.now_ns <= 1_000 + 100_000_000


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ('{"part_id": "A-17"}', Ask(1_000, "A-17")),
        ("{}", Ask(1_000)),
        ('{"part_id": null, "encoder": -5}', Ask(1_000, None, -5)),
        ('{"encoder": 700, "age_ms": 0.0005}', Ask(500, None, 700)),
        ('{"position": 701}', Position(count=701, at_ns=1_000)),
        ('{"position": 701, "age_ms": 0.001}', Position(count=701, at_ns=0)),
    ],
)
def test_triggers_and_positions_are_understood(text: str, asked: Ask | Position) -> None:
    """A name, a count and an age are each optional; the age puts the moment back; a position is no trigger."""
    assert parse_message([text.encode()], 1_000) == asked


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"{", b"}"],
        [b"17"],
        [b'{"part_id": 17}'],
        [b'{"part_id": ""}'],
        [b'{"part_id": "a\\nb"}'],
        [b'{"part_id": "x", "y": 1}'],
        [b'{"part_id": "' + b"x" * 200 + b'"}'],
        [b'{"encoder": 1.5}'],
        [b'{"encoder": true}'],
        [b'{"encoder": 9007199254740993}'],
        [b'{"encoder": ' + b"9" * 5000 + b"}"],
        [b'{"age_ms": -1}'],
        [b'{"age_ms": NaN}'],
        [b'{"age_ms": 60001}'],
        [b'{"age_ms": "1"}'],
        [b'{"position": null}'],
        [b'{"position": 3, "part_id": "A-17"}'],
    ],
)
def test_other_trigger_messages_are_refused(parts: list[bytes]) -> None:
    """Anything else is refused with one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_message(parts, 1_000)
