"""The pace of a line found by running it: rehearsals, each slower than the one before, until every part is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from inspectd.config import Station

REHEARSALS: Final = 5
SLOWER: Final = 1.4
"""Period and deadline of the next rehearsal, against those of one that the machine did not hold."""


def rehearsed(line: Station, parts_without_time: Callable[[Station], int], say: Callable[[str], None]) -> Station:
    """The line at the first pace at which no part ran out of time; after REHEARSALS the slowest, and what is said.

    parts_without_time: runs the line and counts its INVALIDs for want of time. say: takes one line for the user.
    An engine's own time does not settle a pace: camera, part location and records share the processor with it.
    """
    for _ in range(REHEARSALS):
        lost = parts_without_time(line)
        if not lost:
            return line
        line = slowed(line)
        say(
            f"{lost} parts of a rehearsal ran out of time; slower: one part each {line.trigger.period_ms:g} ms, "
            f"deadline {line.line.deadline_ms:g} ms"
        )
    return line


def slowed(line: Station) -> Station:
    """The line with its period and its deadline SLOWER times as long, in whole milliseconds."""
    trigger = line.trigger.model_copy(update={"period_ms": float(math.ceil(line.trigger.period_ms * SLOWER))})
    deadline = line.line.model_copy(update={"deadline_ms": float(math.ceil(line.line.deadline_ms * SLOWER))})
    return line.model_copy(update={"trigger": trigger, "line": deadline})
