"""Is the line still as calibration saw it? A sequential test on each quantity of the passed parts.

Pure: no clock, thread or socket; the same parts give the same answer. docs/drift.md explains it to the line.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

LEAST_REFERENCE = 16
"""Calibration parts below which a quantity is not watched: they say too little."""
SHIFT = 1.0
"""The shift, in standard deviations, that the test is made for; it does not see lasting shifts below half of this."""
FALSE_ALARMS_PER_START = 0.001
"""How likely a false alarm right after a start is, in exchange for a fast answer where the line drifted meanwhile."""
_GRID = 4096


class Direction(StrEnum):
    """Where a quantity has gone."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one quantity stands.

    statistic: chance alone takes so many parts, on average at least, until it stands this high. limit: at this height
    it is called drift. since_seq: the part at which that was, None where there is no drift. parts: those looked at.
    """

    quantity: str
    statistic: float
    limit: float
    direction: Direction
    since_seq: int | None
    parts: int


class DriftWatch:
    """Compares passed parts with calibration, one `QuantityTest` for each quantity; used by one thread.

    references: the values of calibration's held-out good parts; a quantity with fewer than LEAST_REFERENCE is left out.
    parts_per_false_alarm: over all quantities together, however many parts calibration had: a false alarm comes within
    the first t passed parts with a probability of at most FALSE_ALARMS_PER_START + t / parts_per_false_alarm. Each of K
    quantities may rise to K times this number.
    """

    def __init__(self, references: Mapping[str, Sequence[float]], parts_per_false_alarm: int) -> None:
        enough = {name: values for name, values in references.items() if len(values) >= LEAST_REFERENCE}
        limit = float(parts_per_false_alarm * max(1, len(enough)))
        head_start = FALSE_ALARMS_PER_START * parts_per_false_alarm
        self._tests = {name: QuantityTest(values, limit, head_start) for name, values in enough.items()}
        self._since: dict[str, int] = {}

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is watched."""
        return tuple(self._tests)

    def observe(self, seq: int, values: Mapping[str, float]) -> list[Reading]:
        """Take in one passed part; returns the quantities whose drift began or ended with it. Others are left alone."""
        changed = []
        for name, value in values.items():
            test = self._tests.get(name)
            if test is None or not math.isfinite(value):
                continue
            drifted = test.drifted
            test.observe(value)
            if test.drifted is drifted:
                continue
            if test.drifted:
                self._since[name] = seq
            else:
                del self._since[name]
            changed.append(self._reading(name, test))
        return changed

    def readings(self) -> list[Reading]:
        """How every quantity stands."""
        return [self._reading(name, test) for name, test in self._tests.items()]

    def _reading(self, name: str, test: QuantityTest) -> Reading:
        return Reading(
            quantity=name,
            statistic=test.statistic,
            limit=test.limit,
            direction=test.direction,
            since_seq=self._since.get(name),
            parts=test.parts,
        )


class QuantityTest:
    """Shiryaev-Roberts test of one quantity against n values of calibration, exact for any distribution and any n.

    The n values cut the number line into n + 1 cells. While nothing drifts, calibration and line are exchangeable, and
    the next part falls into cell j with probability

        p_j = (1 + c_j) / (n + 1 + t),   c_j of the t parts so far lie in it  (Polya's urn)

    whatever the distribution: the uncertainty of a small calibration is in it. After a shift by SHIFT deviations the
    part at share u of the distribution moves to Phi(Phi^-1(u) + SHIFT), which gives cell j another probability q_j:
    once shifted from calibration alone (strong soon after the start), once from all parts so far (strong later), each
    up and down. Every q_j / p_j has mean 1 given the past, so that

        M <- (M + 1) q_j / p_j       statistic = mean of the four M

    less t and the head start is a martingale: after t parts `limit` has been reached with a probability of at most
    (head_start + t) / limit (Doob), and it takes limit - head_start parts on average at least (optional stopping). Phi
    only says which shifts are found fast, not what is true. Polya's urn is the conformal test of Vovk, Gammerman and
    Shafer, "Algorithmic Learning in a Random World", 2005, ch. 7; sums of restarted test martingales and their run
    length: Shin, Ramdas and Rinaldo, "E-detectors", NEJSDS 2023; the head start: Lucas and Crosier, "Fast initial
    response for CUSUM", Technometrics 1982, here for the two M that are strong after a start.

    `drifted` holds from the limit on until the last parts lie as calibration's did: meanwhile parts are compared with
    calibration alone (nothing is learnt from drifted ones), M stays at most `limit`, and below its square root the
    drift is over and everything begins anew from calibration.
    """

    def __init__(self, values: Sequence[float], limit: float, head_start: float) -> None:
        self._random = random.Random(len(values))  # noqa: S311  (orders equal values; the test needs chance, not secrets)
        self._values = sorted((float(value), self._random.random()) for value in values)
        self.limit = limit
        self._head_start = head_start
        self.parts = 0
        self.drifted = False
        self.direction = Direction.UP
        cells = len(values) + 1
        self._shifted_up = [_shifted(cell / cells, (cell + 1) / cells) for cell in range(cells)]
        self._begin()

    @property
    def statistic(self) -> float:
        """The mean of the four M; while drifted, the M of the drift's direction."""
        return self._drift_m if self.drifted else sum(self._m) / len(self._m)

    def observe(self, value: float) -> None:
        """Take in the value of one passed part; it must be finite."""
        self.parts += 1
        cell = bisect_left(self._values, (value, self._random.random()))
        if self.drifted:
            self._wait_for_the_end(cell)
        else:
            self._look_for_drift(cell)

    def _begin(self) -> None:
        self.drifted = False
        self._drift_m = 0.0
        self._m = [2 * self._head_start, 0.0, 2 * self._head_start, 0.0]
        self._learnt = 0
        self._below = np.zeros(len(self._values) + 2, np.int64)  # parts in the cells before this one

    def _look_for_drift(self, cell: int) -> None:
        cells = len(self._values) + 1
        before, after = int(self._below[cell]), int(self._below[cell + 1])
        total = cells + self._learnt
        low, high = (cell + before) / total, (cell + 1 + after) / total
        expected = high - low
        m = self._m
        m[0] = (m[0] + 1) * self._shifted_up[cell] / expected
        m[1] = (m[1] + 1) * _shifted(low, high) / expected
        m[2] = (m[2] + 1) * self._shifted_up[cells - 1 - cell] / expected
        m[3] = (m[3] + 1) * _shifted(1 - high, 1 - low) / expected
        self._below[cell + 1 :] += 1
        self._learnt += 1
        self.direction = Direction.UP if m[0] + m[1] >= m[2] + m[3] else Direction.DOWN
        if self.statistic >= self.limit:
            self.drifted, self._drift_m = True, self.limit

    def _wait_for_the_end(self, cell: int) -> None:
        cells = len(self._values) + 1
        toward = cell if self.direction is Direction.UP else cells - 1 - cell
        self._drift_m = min(self.limit, (self._drift_m + 1) * self._shifted_up[toward] * cells)
        if self._drift_m <= math.sqrt(self.limit):
            self._begin()


def _shifted_share_table() -> list[float]:
    """Phi(Phi^-1(u) - SHIFT) on an even grid of u: the share below u of parts that have gone up by SHIFT deviations."""
    normal = NormalDist()
    inner = [normal.cdf(normal.inv_cdf(step / _GRID) - SHIFT) for step in range(1, _GRID)]
    return [0.0, *inner, 1.0, 1.0]


_SHARES = _shifted_share_table()


def _share_below(u: float) -> float:
    """Linear between the grid's points: any rising function from 0 to 1 keeps the false-alarm rate exact."""
    place = min(max(u, 0.0), 1.0) * _GRID
    step = int(place)
    return _SHARES[step] + (place - step) * (_SHARES[step + 1] - _SHARES[step])


def _shifted(low: float, high: float) -> float:
    """How many of the parts that have gone up lie where shares `low` to `high` of the others do."""
    return _share_below(high) - _share_below(low)
