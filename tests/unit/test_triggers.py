"""Trigger sources: an absolute timer, and messages."""

from __future__ import annotations

import json
import time
from threading import Event

import pytest

from inspectd import triggers
from inspectd.health.meters import Meters
from inspectd.messages import Position
from inspectd.trigger_message import Ask, parse_message
from inspectd.triggers import TimerTriggers


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


def timer_of(period_ms: float, meters: Meters | None = None) -> TimerTriggers:
    """A timer of a line whose deadline is 500 ms."""
    return TimerTriggers(period_ms, 500, meters or Meters())


def test_the_schedule_does_not_drift(clock: Clock) -> None:
    """However long the caller takes after each trigger, the due times stay on the grid of the first one."""
    timer, stop = timer_of(20), Waiting(clock)
    due = []
    for _ in range(50):
        ask = timer.next(stop)
        assert ask is not None
        due.append(ask.due_ns)
        clock.now_ns += 7_123_457
    assert due == [1_000 + turn * 20_000_000 for turn in range(50)]


def test_what_fell_due_meanwhile_follows_at_once(clock: Clock) -> None:
    """A caller that was busy for five periods gets five requests, each with its own due time."""
    timer, stop = timer_of(20), Waiting(clock)
    timer.next(stop)
    clock.now_ns += 105_000_000
    asked_at = clock.now_ns
    due = [ask.due_ns for ask in (timer.next(stop) for _ in range(5)) if ask is not None]
    assert due == [1_000 + turn * 20_000_000 for turn in range(1, 6)]
    assert clock.now_ns == asked_at


def test_a_long_period_is_waited_for_in_slices(clock: Clock) -> None:
    """The source returns at least each 100 ms, so that the thread can beat and stop."""
    timer, stop = timer_of(1000), Waiting(clock)
    timer.next(stop)
    assert timer.next(stop) is None
    assert clock.now_ns <= 1_000 + 100_000_000


def test_what_a_pause_let_pass_is_left_out_and_counted(clock: Clock) -> None:
    """A machine paused for 60 s: triggers whose deadline has passed do not come; the grid stays."""
    meters, stop = Meters(), Waiting(clock)
    timer = timer_of(5, meters)
    first = timer.next(stop)
    assert first is not None
    clock.now_ns += 60_000_000_000
    late = timer.next(stop)
    assert late is not None
    assert clock.now_ns - late.due_ns < 500_000_000
    assert (late.due_ns - first.due_ns) % 5_000_000 == 0
    skipped = (late.due_ns - first.due_ns) // 5_000_000 - 1
    assert meters.counts()["timer_skipped"] == skipped == 11_900


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ('{"part_id": "A-17"}', Ask(1_000, "A-17")),
        ("{}", Ask(1_000)),
        ('{"part_id": null, "encoder": -5}', Ask(1_000, None, -5)),
        ('{"encoder": 700, "age_ms": 0.0005}', Ask(500, None, 700, 500)),
        ('{"position": 701}', Position(count=701, at_ns=1_000)),
        ('{"position": 701, "age_ms": 0.001}', Position(count=701, at_ns=0)),
        ('{"part_id": "Stück 17 ½"}', Ask(1_000, "Stück 17 ½")),
    ],
)
def test_triggers_and_positions_are_understood(text: str, asked: Ask | Position) -> None:
    """A name, a count and an age are each optional; the age puts the moment back; a position is no trigger."""
    assert parse_message([text.encode()], 1_000) == asked


@pytest.mark.parametrize(
    ("sent", "name", "kept"),
    [
        ("A-17\r\n", "A-17", "A-17\r\n"),
        ("\x02A-17\x03", "A-17", "\x02A-17\x03"),
        ("]d2A-17\x1d", "]d2A-17", "]d2A-17\x1d"),
        ("\u00a0A-17\u00a0 ", "A-17", "\u00a0A-17\u00a0 "),
        ("\ufeffA-17\0", "A-17", "\ufeffA-17\0"),
        (17, "17", ""),
        (17.0, "17", ""),
        (-0.5, "-0.5", ""),
        ("", None, ""),
        ("\r\n", None, "\r\n"),
        ("0104012\x1d21ABC", None, "0104012\x1d21ABC"),
        ("a\nb", None, "a\nb"),
        ("x" * 129, None, "x" * 129),
        ("x" * 5000, None, "x" * 1024),
        (["A", 17], '["A", 17]', ""),
        (True, "true", ""),
        ("\ud800", None, "\\ud800"),
    ],
)
def test_a_part_is_judged_whatever_its_name_is(sent: object, name: str | None, kept: str) -> None:
    """What readers append is trimmed, a name that cannot serve is left to the daemon, and what was sent is kept."""
    found = parse_message([json.dumps({"part_id": sent}).encode()], 1_000)
    assert isinstance(found, Ask)
    assert (found.part_id, found.sent_id) == (name, kept)
    assert found.odd == ("part_id",)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ('{"age_ms": -0.2}', Ask(1_000, odd=("age_ms",))),
        ('{"age_ms": NaN}', Ask(1_000, odd=("age_ms",))),
        ('{"age_ms": "1"}', Ask(1_000, odd=("age_ms",))),
        ('{"age_ms": 60001}', Ask(1_000 - 60_000_000_000, age_ns=60_000_000_000, odd=("age_ms",))),
        ('{"age_ms": 1e400}', Ask(1_000 - 60_000_000_000, age_ns=60_000_000_000, odd=("age_ms",))),
        ('{"encoder": 1.5}', Ask(1_000, encoder=2, odd=("encoder",))),
        ('{"encoder": 700.0}', Ask(1_000, encoder=700, odd=("encoder",))),
        ('{"encoder": true}', Ask(1_000, odd=("encoder",))),
        ('{"encoder": 9007199254740993}', Ask(1_000, odd=("encoder",))),
        ('{"encoder": 1e300}', Ask(1_000, odd=("encoder",))),
        ('{"part_id": "x", "y": 1, "z": 2}', Ask(1_000, "x", odd=("unknown fields",))),
        ('{"position": 3.4, "part_id": "A-17"}', Position(count=3, at_ns=1_000)),
    ],
)
def test_other_fields_are_put_right_or_left_out(text: str, asked: Ask | Position) -> None:
    """A part stands there: a field that says nothing useful does not decide whether it is inspected."""
    assert parse_message([text.encode()], 1_000) == asked


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"{", b"}"],
        [b"17"],
        [b'"A-17"'],
        [b"[]"],
        [b'{"encoder": ' + b"9" * 5000 + b"}"],
        [b'{"position": null}'],
        [b'{"position": "here"}'],
    ],
)
def test_what_is_no_trigger_is_refused(parts: list[bytes]) -> None:
    """With one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_message(parts, 1_000)
