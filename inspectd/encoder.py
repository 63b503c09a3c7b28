"""Where the belt is and how fast it moves, from raw encoder counts; `ByEncoder` tells `Tracker` when a part arrives."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from inspectd.messages import Position, Trigger, Verdict
from inspectd.tracking import Window

SPACING_NS = 50_000_000
HORIZON_NS = 1_000_000_000
FARTHEST_NS = 60_000_000_000
LEAST_SAMPLES = 3
AGREEING_SHARE = 0.75


class Belt:
    """Raw counts -> distance travelled and speed. A counter may wrap (`modulus`), stop, run backwards or jump.

    sign: 1 where the count rises as the belt moves on, -1 where it falls. tolerance_counts: how far positions may lie
    from a steady motion for it to count as steady. jump_counts: a step back by more is no motion but a new count.
    """

    def __init__(self, *, modulus: int | None, sign: int, tolerance_counts: float, jump_counts: int) -> None:
        self._modulus, self._sign = modulus, sign
        self._tolerance, self._jump = tolerance_counts, jump_counts
        self._newest: Position | None = None
        self._travelled = 0
        self._samples: list[tuple[int, int]] = []  # (at_ns, travelled), rising times, SPACING_NS apart but the newest
        self._line: tuple[float, float] | None = None
        self._stale = True

    def on_position(self, position: Position) -> None:
        """Take in a reading; one from before the newest says something of the speed, but nothing of the place."""
        if self._newest is None:
            self._newest = position
        if position.at_ns < self._newest.at_ns:
            self._sample_older(position, self._newest)
            return
        step = self.counts_between(self._newest.count, position.count)
        if step < -self._jump:
            self._samples.clear()
        self._newest = position
        self._travelled += step
        self._sample(position.at_ns)
        self._stale = True

    def counts_between(self, start: int, end: int) -> int:
        """How far the belt moved from one raw count to another, negative for backwards; of the wrapped, the shorter."""
        step = self._sign * (end - start)
        if self._modulus is None:
            return step
        return (step + self._modulus // 2) % self._modulus - self._modulus // 2

    def travelled_since(self, count: int) -> int:
        """How far the newest position is beyond `count`; 0 before the first position."""
        return 0 if self._newest is None else self.counts_between(count, self._newest.count)

    def ahead(self, count: int, distance: int) -> int:
        """The raw count at `distance` beyond `count`."""
        target = count + self._sign * distance
        return target if self._modulus is None else target % self._modulus

    def reaches_ns(self, counts: int, now_ns: int) -> int | None:
        """When the belt will have moved `counts` beyond the newest position; None where it stands or moves unsteadily.

        The line through the last second's positions is Theil and Sen's (the median of the slopes between all pairs, and
        of the intercepts): a reading that was late, or is wrong, does not move it.
        """
        if self._newest is None or now_ns - self._newest.at_ns > HORIZON_NS:
            return None
        if self._stale:
            self._line, self._stale = self._fit(), False
        if self._line is None:
            return None
        speed, offset = self._line
        after_ns = (counts - offset) / speed
        if after_ns > FARTHEST_NS:
            return None
        return self._newest.at_ns + round(after_ns)

    def _sample(self, at_ns: int) -> None:
        """Of readings that come in one burst, only the first and the newest are kept."""
        samples = self._samples
        if len(samples) > 1 and samples[-1][0] - samples[-2][0] < SPACING_NS:
            samples.pop()
        if samples and samples[-1][0] == at_ns:
            samples.pop()
        samples.append((at_ns, self._travelled))
        while samples[0][0] < at_ns - HORIZON_NS:
            samples.pop(0)

    def _sample_older(self, position: Position, newest: Position) -> None:
        """Fill a hole among the samples: readings take different ways here, and may overtake each other."""
        moved_since = self.counts_between(position.count, newest.count)
        index = bisect_left(self._samples, (position.at_ns, 0))
        beside = self._samples[max(0, index - 1) : index + 1]
        if moved_since < -self._jump or position.at_ns < newest.at_ns - HORIZON_NS:
            return
        if all(abs(at_ns - position.at_ns) >= SPACING_NS for at_ns, _ in beside):
            self._samples.insert(index, (position.at_ns, self._travelled - moved_since))
            self._stale = True

    def _fit(self) -> tuple[float, float] | None:
        """Speed in counts per nanosecond, and where the line lies at the newest position, relative to it."""
        if len(self._samples) < LEAST_SAMPLES:
            return None
        newest_ns, newest = self._samples[-1]
        times = np.array([at_ns - newest_ns for at_ns, _ in self._samples], np.float64)
        places = np.array([travelled - newest for _, travelled in self._samples], np.float64)
        first, second = np.triu_indices(len(times), 1)
        speed = float(np.median((places[second] - places[first]) / (times[second] - times[first])))
        if speed <= 0:
            return None
        offset = float(np.median(places - speed * times))
        agree = np.abs(places - speed * times - offset) <= self._tolerance
        return (speed, offset) if agree[-1] and agree.mean() >= AGREEING_SHARE else None


class ByEncoder:
    """Each part is before its actuator from `distance_counts` beyond its trigger's count on, for `window_counts`."""

    def __init__(self, *, distance_counts: int, window_counts: int, modulus: int | None, sign: int) -> None:
        self._distance, self._window = distance_counts, window_counts
        self._end = distance_counts + window_counts
        self._belt = Belt(
            modulus=modulus, sign=sign, tolerance_counts=max(1.0, window_counts / 2), jump_counts=self._end
        )

    def on_position(self, position: Position) -> None:
        """Take in where the belt is."""
        self._belt.on_position(position)

    def window(self, part: Trigger | Verdict, now_ns: int) -> Window:
        """The counts, and the times where the belt moves steadily."""
        if part.encoder is None:
            return Window(gone="its trigger carried no encoder count")
        travelled = self._belt.travelled_since(part.encoder)
        window = Window(
            from_count=self._belt.ahead(part.encoder, self._distance),
            to_count=self._belt.ahead(part.encoder, self._end),
            reached=travelled >= self._distance,
        )
        if travelled < -self._end:
            return replace(window, gone="the encoder's count jumped back since the trigger")
        if travelled > self._end:
            return replace(window, gone=f"the part is {travelled - self._end} counts past its window")
        opens_ns = self._belt.reaches_ns(self._distance - travelled, now_ns)
        closes_ns = self._belt.reaches_ns(self._end - travelled, now_ns)
        if opens_ns is None or closes_ns is None:
            return window
        return replace(window, opens_ns=opens_ns, closes_ns=closes_ns)

    def together(self, part: Trigger | Verdict, other: Trigger | Verdict) -> bool:
        """All windows have the same width: they overlap where the triggers are closer than that."""
        if part.encoder is None or other.encoder is None:
            return False
        return abs(self._belt.counts_between(part.encoder, other.encoder)) < self._window
