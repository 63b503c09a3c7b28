"""The time of day as retention may trust it: a wall clock that was set says nothing of how old a record is."""

from __future__ import annotations

import time

import structlog

TOLERANCE_NS = 3_600 * 1_000_000_000
log = structlog.get_logger(__name__)


class SteadyClock:
    """The wall clock at the start, and what has passed since, also while the machine slept. For one thread."""

    def __init__(self) -> None:
        self._begun_ns = time.time_ns() - _passed_ns()
        self._agrees = True

    def now_ns(self) -> int | None:
        """Nanoseconds since 1970, None while the wall clock says otherwise by more than an hour: it was set."""
        now_ns = self._begun_ns + _passed_ns()
        off_ns = time.time_ns() - now_ns
        agrees = abs(off_ns) <= TOLERANCE_NS
        if agrees is not self._agrees:
            self._agrees = agrees
            if agrees:
                log.info("the wall clock is right again: records are deleted for their age as before")
            else:
                why = "the wall clock was set: no record is deleted for its age until the next start"
                log.warning(why, set_by_s=round(off_ns / 1e9))
        return now_ns if agrees else None


def _passed_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
