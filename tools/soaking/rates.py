"""The highest rate that a daemon holds: triggers come faster and faster until parts are no longer judged in time."""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq
from benchmarking.daemon import BenchmarkError

from inspectd.messages import Reason
from inspectd.wire.public import from_bytes

FIRST_HZ = 50.0
HIGHEST_HZ = 5_000.0
PRECISION = 0.03
SAMPLE_S = 3.0
LEAST_PARTS = 200
CONFIRMED_S = 30.0
STEP_DOWN = 0.92
SILENT_AT_MOST_S = 10.0
NOT_SUSTAINED = frozenset({Reason.LATE, Reason.OVERLOAD, Reason.NO_FRAME})
"""Reasons that a part gets where the daemon is too slow; any other is about the part itself."""


class Line:
    """A line whose pace is set from here: sends triggers, hears the results. Both sockets are the caller's."""

    def __init__(self, triggers: zmq.Socket[bytes], results: zmq.Socket[bytes]) -> None:
        self._triggers, self._results = triggers, results

    def wait_until_heard(self) -> None:
        """Send single parts until a result comes: then both connections stand. Raises BenchmarkError."""
        give_up_s = time.monotonic() + SILENT_AT_MOST_S
        while not self._results.poll(200):
            self._ask()
            if time.monotonic() > give_up_s:
                raise BenchmarkError("the daemon answers no trigger")
        while self._results.poll(500):
            self._results.recv_multipart()

    def holds(self, rate_hz: float, seconds: float) -> bool:
        """Whether every part of a sample at that rate is judged in time. Blocks for about `seconds`."""
        parts = max(LEAST_PARTS, round(rate_hz * seconds))
        begun_s = time.perf_counter()
        for index in range(parts):
            wait_s = begun_s + index / rate_hz - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            self._ask()
        return self._unsustained(parts) == 0

    def _ask(self) -> None:
        try:
            self._triggers.send(b"{}")
        except zmq.Again:
            raise BenchmarkError("the daemon takes no trigger") from None

    def _unsustained(self, parts: int) -> int:
        failed = 0
        for _ in range(parts):
            if not self._results.poll(round(SILENT_AT_MOST_S * 1000)):
                raise BenchmarkError(f"no result for {SILENT_AT_MOST_S:g} s: a part was not answered")
            result = from_bytes(self._results.recv_multipart()[1], "inspectd.result")
            failed += result["reason"] in NOT_SUSTAINED
        return failed


def highest_rate(line: Line, tell: Callable[[str], None]) -> float:
    """Double the rate until it does not hold, halve the interval, confirm what was found; blocks for a minute.

    tell: is given a line for each step. Raises BenchmarkError where not even the first rate holds.
    """
    line.wait_until_heard()
    good, bad = 0.0, FIRST_HZ
    while bad < HIGHEST_HZ and line.holds(bad, SAMPLE_S):
        tell(f"{bad:.0f} parts a second hold")
        good, bad = bad, 2 * bad
    while bad - good > PRECISION * bad:
        middle = (good + bad) / 2
        held = line.holds(middle, SAMPLE_S)
        tell(f"{middle:.0f} parts a second {'hold' if held else 'do not hold'}")
        good, bad = (middle, bad) if held else (good, middle)
        if bad < 1:
            raise BenchmarkError("not even one part a second is judged in time: look at the station's deadline")
    while not line.holds(good, CONFIRMED_S):
        good *= STEP_DOWN
        tell(f"too fast for {CONFIRMED_S:g} s on end: {good:.0f} parts a second")
    return good
