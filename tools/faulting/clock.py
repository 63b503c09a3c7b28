"""A wall clock that jumps when it is told to; the monotonic clock goes on as it did."""

from __future__ import annotations

import time


class WallClock:
    """Stands in for `time.time` and `time.time_ns` of this process from the moment it is installed."""

    def __init__(self) -> None:
        self._time_ns = time.time_ns
        self._offset_ns = 0

    def install(self) -> None:
        """Let every module of this process see this clock."""
        time.time_ns = self.time_ns
        time.time = self.time

    def jump(self, seconds: float) -> None:
        """Go forward, or back where it is negative, at once."""
        self._offset_ns += round(seconds * 1e9)

    def time_ns(self) -> int:
        """Nanoseconds since 1970, as far as it jumped."""
        return self._time_ns() + self._offset_ns

    def time(self) -> float:
        """Seconds since 1970, as far as it jumped."""
        return self.time_ns() / 1e9
