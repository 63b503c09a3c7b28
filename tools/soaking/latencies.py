"""Latencies of any number of parts in a fixed amount of memory: logarithmic classes, half a percent wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_NS = 1_000.0
MOST_NS = 1e11
GROWTH = 1.005
CLASSES = math.ceil(math.log(MOST_NS / LEAST_NS, GROWTH)) + 1
NS_PER_MS = 1e6
QUANTILES = (0.5, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """p50, p99 and p99.9 (to half a percent) and the exact maximum, in milliseconds, over `count` values."""

    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Latencies:
    """A histogram of durations in nanoseconds; what is below a microsecond counts as one."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(CLASSES, np.int64)
        self._max_ns = 0
        self.count = 0

    def add(self, duration_ns: int) -> None:
        """Take one duration in."""
        at = 0 if duration_ns <= LEAST_NS else int(math.log(duration_ns / LEAST_NS) / math.log(GROWTH))
        self._counts[min(at, CLASSES - 1)] += 1
        self._max_ns = max(self._max_ns, duration_ns)
        self.count += 1

    def quantiles(self) -> Quantiles | None:
        """None before the first value. A class stands for its upper end, and never for more than the maximum."""
        if not self.count:
            return None
        cumulative = np.cumsum(self._counts)
        p50, p99, p999 = (self._quantile_ms(cumulative, share) for share in QUANTILES)
        return Quantiles(self.count, p50, p99, p999, self._max_ns / NS_PER_MS)

    def _quantile_ms(self, cumulative: NDArray[np.int64], share: float) -> float:
        at = int(np.searchsorted(cumulative, math.ceil(share * self.count)))
        return float(min(LEAST_NS * GROWTH ** (at + 1), self._max_ns) / NS_PER_MS)


class StepLatencies:
    """One histogram for each step between time stamps, and one for the whole way."""

    def __init__(self, names: Sequence[str], whole: str) -> None:
        self._steps = {name: Latencies() for name in names}
        self._whole_name = whole
        self._whole = Latencies()

    def add(self, stamps_ns: Sequence[int]) -> None:
        """Take one part's stamps in: as many as there are steps, and one more."""
        for latencies, begin_ns, end_ns in zip(self._steps.values(), stamps_ns, stamps_ns[1:], strict=False):
            latencies.add(end_ns - begin_ns)
        self._whole.add(stamps_ns[-1] - stamps_ns[0])

    def table(self) -> dict[str, Quantiles]:
        """By step, the whole way first; empty before the first part."""
        found = {self._whole_name: self._whole.quantiles()}
        found |= {name: latencies.quantiles() for name, latencies in self._steps.items()}
        return {name: quantiles for name, quantiles in found.items() if quantiles is not None}
