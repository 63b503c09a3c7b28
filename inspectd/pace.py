"""What a machine sustains: how long the engine takes here, and the pace that leaves every part its verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.artifact import Bundle
from engines.golden import read_golden
from engines.runtimes import Runtime, infer
from inspectd.config import Station

TIMED_PARTS: Final = 50
HEADROOM: Final = 1.5
"""Of the usual time of a part: what else runs on the machine takes its turns, and a line does not wait."""
AROUND_MS: Final = 8.0
"""From trigger to verdict less the engine: what 99 parts in a hundred stay below (docs/benchmark.md), with a margin."""
WORTH_A_CORE: Final = 1.15
"""So many times as fast has another number of threads to be, where none holds the line."""
NS_PER_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Pace:
    """The closest triggers and the shortest deadline, in ms, that an engine holds with some headroom."""

    period_ms: float
    deadline_ms: float

    @staticmethod
    def of(times_ms: NDArray[np.float64]) -> Pace:
        """For an engine that took these milliseconds, one part after the other; whole ones, rounded up."""
        usual, slow = float(np.median(times_ms)), float(np.quantile(times_ms, 0.99))
        return Pace(float(math.ceil(HEADROOM * usual)), float(math.ceil(HEADROOM * slow + AROUND_MS)))

    def proposal(self, station: Station) -> str:
        """The station's settings as they would have to be, where they ask for more: `line.deadline_ms: 60`."""
        deadline_ms = max(self.deadline_ms, station.line.deadline_ms)
        period_ms = timer_period_ms(station)
        asked = [] if period_ms is None else [f"trigger.period_ms: {max(self.period_ms, period_ms):g}"]
        return " and ".join([*asked, f"line.deadline_ms: {deadline_ms:g}"])


def engine_times(bundle: Bundle, runtime: Runtime) -> NDArray[np.float64]:
    """Milliseconds that the engine takes for each of TIMED_PARTS golden images, one after the other, (TIMED_PARTS,).

    Raises BundleError, EngineFault.
    """
    images = [read_golden(bundle, golden) for golden in bundle.manifest.golden]
    taken = []
    for number in range(TIMED_PARTS):
        started_ns = time.monotonic_ns()
        infer(runtime, images[number % len(images)])
        taken.append((time.monotonic_ns() - started_ns) / NS_PER_MS)
    return np.array(taken)


def held(station: Station, pace: Pace) -> bool:
    """Whether a machine of this pace gives the line a verdict for each part in time."""
    period_ms = timer_period_ms(station)
    return pace.deadline_ms <= station.line.deadline_ms and (period_ms is None or pace.period_ms <= period_ms)


def thread_counts(own: int, cores: int) -> list[int]:
    """Numbers of inference threads worth trying on so many cores beside the station's own: powers of two, all cores."""
    powers = {1 << power for power in range(cores.bit_length()) if 1 << power <= cores}
    return sorted((powers | {cores}) - {own or cores})


def fewest_that_hold(
    station: Station, own_ms: NDArray[np.float64], others_ms: Mapping[int, NDArray[np.float64]]
) -> int | None:
    """The fewest threads with which the line gets its verdicts in time, else those that are fastest, of `others_ms`.

    others_ms: milliseconds of inferences by number of threads. None where the station's own threads, whose inferences
    took `own_ms`, are about as fast: cores are worth more to the rest of the line.
    """
    for count in sorted(others_ms):
        if held(station, Pace.of(others_ms[count])):
            return count
    fastest = min(others_ms, key=lambda count: float(np.median(others_ms[count])), default=None)
    if fastest is None or float(np.median(others_ms[fastest])) * WORTH_A_CORE > float(np.median(own_ms)):
        return None
    return fastest


def timer_period_ms(station: Station) -> float | None:
    """The line's own period, where triggers come from a timer."""
    return station.trigger.period_ms if station.trigger.source == "timer" else None
