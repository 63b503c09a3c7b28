"""Memory of one life of the daemon in a soak run: where it settled and ended, and the most; and of one engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarking.daemon import BenchmarkError, peak_mib, resident_mib

from inspectd.config import load_station
from inspectd.loading import find_bundle, load_engine

SAMPLES = 10
"""The least of so many, a second apart: an engine that is loaded beside another one is in some of them, not in all."""
PEAK_FROM_NOW = "5"
"""Written to clear_refs: the kernel's peak of resident memory begins anew (proc(5))."""


@dataclass(frozen=True, slots=True)
class LifeMemory:
    """Resident memory of one life, in MiB: the least of its first samples and of its last, and the most ever."""

    begin_mib: float
    end_mib: float
    most_mib: float

    @property
    def growth_mib(self) -> float:
        """By how much it is larger in the end."""
        return self.end_mib - self.begin_mib

    @property
    def rise_mib(self) -> float:
        """By how much it was larger at most."""
        return self.most_mib - self.begin_mib


class MemorySamples:
    """What was seen of one life; takes a fixed amount of memory itself."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=SAMPLES)
        self.most_mib = 0.0

    def add(self, now_mib: float, most_mib: float, *, settled: bool) -> None:
        """One sample, and the most since the process began; settled: the daemon has judged enough parts to count."""
        self.most_mib = max(self.most_mib, now_mib, most_mib)
        if not settled:
            return
        if len(self._first) < SAMPLES:
            self._first.append(now_mib)
        else:
            self._last.append(now_mib)

    def result(self) -> LifeMemory | None:
        """None where the life was too short to say."""
        if not self._last:
            return None
        return LifeMemory(min(self._first), min(self._last), self.most_mib)


def engine_mib(station: Path, bundle: Path, environment: Mapping[str, str]) -> float:
    """The most that loading one more engine takes beside one that runs, tried in a process of its own; blocks.

    environment: of that process, which must find `inspectd` and `soaking`. Raises BenchmarkError.
    """
    command = [sys.executable, "-m", "soaking.memory", str(station), str(bundle)]
    done = subprocess.run(  # noqa: S603 - our own program
        command, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"an engine's memory could not be measured: {(done.stderr.splitlines() or ['?'])[-1]}")
    return float(done.stdout.splitlines()[-1])


def _measure(station_file: str, folder: str) -> float:
    """As `engine_mib`, in this process: the first engine also brings the libraries in, so the second one counts."""
    station = load_station(station_file)
    bundle = find_bundle(station, Path(folder))
    first = load_engine(station, bundle)
    before_mib = resident_mib(os.getpid())
    Path("/proc/self/clear_refs").write_text(PEAK_FROM_NOW, encoding="ascii")
    second = load_engine(station, bundle)
    more_mib = peak_mib(os.getpid()) - before_mib
    for engine in (first, second):
        engine.runtime.close()
    return more_mib


if __name__ == "__main__":
    print(_measure(*sys.argv[1:]))
