"""Which of the waiting frames the inspect stage takes next, and which cannot be answered in time any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inspectd.messages import Frame

MOST_STAYING = 4
"""Parts that are kept behind the newest under overload, for when the load falls; more would keep newer ones out."""


@dataclass(slots=True)
class Cost:
    """How long a part takes, in nanoseconds: at least, and likely (mean plus four mean deviations, as in RFC 6298).

    The least follows shorter durations at once and longer ones slowly. `doubt` lowers it whenever parts are dropped
    because of it and none is inspected, so that no stall can make the stage drop every part after it for good.
    """

    mean_ns: float = 0.0
    deviation_ns: float = 0.0
    least_ns: float = 0.0

    @property
    def likely_ns(self) -> int:
        """What a part is expected to take at most."""
        return round(self.mean_ns + 4 * self.deviation_ns)

    def learn(self, duration_ns: int) -> None:
        """Take a measured duration into account."""
        if self.mean_ns == 0.0:
            self.mean_ns, self.deviation_ns, self.least_ns = float(duration_ns), duration_ns / 4, duration_ns / 4
            return
        self.deviation_ns += (abs(duration_ns - self.mean_ns) - self.deviation_ns) / 4
        self.mean_ns += (duration_ns - self.mean_ns) / 8
        self.least_ns += (duration_ns - self.least_ns) / (64 if duration_ns > self.least_ns else 1)

    def doubt(self) -> None:
        """Lower the least by a tenth."""
        self.least_ns *= 0.9


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the waiting frames is next, which stay, and which cannot be answered in time any more.

    company: what goes into the same inference as `next`.
    """

    next: Frame | None
    stay: list[Frame]
    drop: list[Frame]
    company: list[Frame] = field(default_factory=list)


def choose(waiting: Sequence[Frame], now_ns: int, *, least_ns: int, likely_ns: int, together: int = 1) -> Choice:
    """Drop what cannot meet its deadline even at best; then the oldest, or the newest where not all can likely be met.

    waiting: oldest first. least_ns, likely_ns: time of one inference, which takes up to `together` parts. A part alone
    is always tried: that costs nobody. What cannot be met any more once the newest is done is dropped now: the line
    hears of it earlier, and with the reason.
    """
    possible = [frame for frame in waiting if now_ns + least_ns < frame.deadline_ns]
    drop = [frame for frame in waiting if now_ns + least_ns >= frame.deadline_ns]
    if not possible:
        return Choice(None, [], drop)
    if all(now_ns + (turn // together + 1) * likely_ns < frame.deadline_ns for turn, frame in enumerate(possible)):
        return Choice(possible[0], possible[together:], drop, possible[1:together])
    others, company, newest = possible[:-together], possible[-together:-1], possible[-1]
    stay = [frame for frame in others if now_ns + 2 * least_ns < frame.deadline_ns][-MOST_STAYING:]
    return Choice(newest, stay, drop + others[: len(others) - len(stay)], company)
