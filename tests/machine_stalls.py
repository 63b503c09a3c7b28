"""When the machine that runs the tests stood still: no deadline can be kept then, and no test may fail for it."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Self

LOOK_EVERY_S = 0.005
STALL_NS = 20_000_000
"""So much later than asked for, a sleep ends because nothing ran."""


class MachineStalls:
    """Notes, while it is entered, when a thread that only sleeps was not woken; on the clock that daemons use.

    One thread on each core: a host may take one core away and leave the others.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(core,), name=f"machine-stalls-{core}")
            for core in sorted(os.sched_getaffinity(0))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def within(self, from_ns: int, to_ns: int) -> int:
        """How long a core stood still between two times of the monotonic clock, in nanoseconds; 0 where none did."""
        stood_ns, reached_ns = 0, from_ns
        for begun_ns, ended_ns in sorted(self._spans):  # those of two cores may overlap
            stood_ns += max(0, min(ended_ns, to_ns) - max(begun_ns, reached_ns))
            reached_ns = max(reached_ns, ended_ns)
        return stood_ns

    def _watch(self, core: int) -> None:
        os.sched_setaffinity(0, {core})  # of this thread alone
        seen_ns = time.monotonic_ns()
        while not self._end.wait(LOOK_EVERY_S):
            now_ns = time.monotonic_ns()
            if now_ns - seen_ns > LOOK_EVERY_S * 1e9 + STALL_NS:
                self._spans.append((seen_ns, now_ns))
            seen_ns = now_ns
