"""Property: on a steady belt the window's times are those of the motion, wherever the counter starts and wraps."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from line_values import MS, verdict

from inspectd.encoder import ByEncoder
from inspectd.messages import Outcome, Position

DISTANCE, WINDOW = 1000, 200
LONGEST_MS = 1000
FASTEST, SELDOM_MS = 50, 40  # counts per millisecond; between two readings: less than half a turn of the counter


@given(
    counts_per_ms=st.floats(0.2, FASTEST),
    start=st.integers(-(10**9), 10**9),
    modulus=st.none() | st.integers(2 * FASTEST * SELDOM_MS + 2, 1 << 32),
    sign=st.sampled_from([1, -1]),
    every_ms=st.integers(5, SELDOM_MS),
    since_ms=st.integers(0, 200),
)
def test_times_are_those_of_the_motion(
    *, counts_per_ms: float, start: int, modulus: int | None, sign: int, every_ms: int, since_ms: int
) -> None:
    """Counts are exact; times are off by what whole counts over the second's positions can be off, and no more."""

    def count(at_ms: float) -> int:
        shown = start + sign * round(counts_per_ms * at_ms)
        return shown if modulus is None else shown % modulus

    course = ByEncoder(distance_counts=DISTANCE, window_counts=WINDOW, modulus=modulus, sign=sign)
    for at_ms in range(0, LONGEST_MS + 1, every_ms):
        course.on_position(Position(count=count(at_ms), at_ns=at_ms * MS))
    last_ms = LONGEST_MS // every_ms * every_ms
    trigger_ms = last_ms - min(since_ms, DISTANCE / counts_per_ms)
    part = replace(verdict(1, Outcome.REJECT), encoder=count(trigger_ms), trigger_ns=round(trigger_ms * MS))
    window = course.window(part, last_ms * MS)
    wrap = (lambda value: value) if modulus is None else (lambda value: value % modulus)
    assert (window.from_count, window.to_count) == (
        wrap(count(trigger_ms) + sign * DISTANCE),
        wrap(count(trigger_ms) + sign * (DISTANCE + WINDOW)),
    )
    assert window.gone == ""
    assert window.opens_ns is not None
    assert window.closes_ns is not None
    for told_ns, distance in ((window.opens_ns, DISTANCE), (window.closes_ns, DISTANCE + WINDOW)):
        true_ms = trigger_ms + distance / counts_per_ms
        off_by_counts = 2 + 2 * (true_ms - last_ms) / (LONGEST_MS / 2)
        assert abs(told_ns / MS - true_ms) <= max(0.01, off_by_counts / counts_per_ms)
