"""When the machine that runs the tests stood still: no deadline can be kept then, and no test may fail for it."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

LOOK_EVERY_S = 0.005
STALL_NS = 20_000_000
"""So much later than asked for, a sleep ends because nothing ran."""


class MachineStalls:
    """Notes, while it is entered, when a thread that only sleeps was not woken; on the clock that daemons use."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="machine-stalls")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def within(self, from_ns: int, to_ns: int) -> int:
        """How long it stood still between two times of the monotonic clock, in nanoseconds; 0 where it did not."""
        return sum(max(0, min(ended_ns, to_ns) - max(begun_ns, from_ns)) for begun_ns, ended_ns in self._spans)

    def _watch(self) -> None:
        seen_ns = time.monotonic_ns()
        while not self._end.wait(LOOK_EVERY_S):
            now_ns = time.monotonic_ns()
            if now_ns - seen_ns > LOOK_EVERY_S * 1e9 + STALL_NS:
                self._spans.append((seen_ns, now_ns))
            seen_ns = now_ns
