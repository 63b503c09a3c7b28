#!/usr/bin/env python3
"""How soon the drift watch finds a shift, and how seldom it is wrong: the table of docs/drift.md, on made-up parts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspectd.commands.arguments import count, seed
from inspectd.health.drift import FALSE_ALARMS_PER_START, QuantityTest
from inspectd.sections import DriftSettings
from inspectd.terminal import progress_bar

QUANTITIES = 10
REFERENCES = (40, 60, 90, 300)
SHIFTS = (0.5, 1.0, 2.0)
GOOD_BEFORE = (0, 2_000)
FOLLOWED = 3_000
STEADY = 100_000
EPILOG = """\
example:
  tools/drift_table.py --runs 200
"""


@dataclass(frozen=True, slots=True)
class Delays:
    """Parts until a shift was found, of the runs that found it within FOLLOWED parts, and the share of such runs."""

    found: float
    median: float | None
    p90: float | None

    def __str__(self) -> str:
        if self.median is None or self.p90 is None:
            return f"({self.found:.0%})"
        return f"{self.median:.0f} / {self.p90:.0f} ({self.found:.0%})"


def main() -> int:
    """Print the tables; returns 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=count, default=100, metavar="N", help="runs for each cell (default 100)")
    parser.add_argument("--seed", type=seed, default=0, help="same seed, same tables")
    args = parser.parse_args()
    with progress_bar() as bar:
        task = bar.add_task("runs", total=args.runs * len(REFERENCES) * (1 + len(SHIFTS) * len(GOOD_BEFORE)))
        rows = []
        for parts in REFERENCES:
            alarms = 0
            for run in range(args.runs):
                alarms += _run_length(parts, _line(args.seed, parts, run, STEADY), args.seed + run) is not None
                bar.advance(task)
            cells = []
            for good, shift in _columns():
                cells.append(_delays(parts, shift, good, runs=args.runs, seed=args.seed))
                bar.advance(task, args.runs)
            rows.append((parts, f"{alarms} of {args.runs}", *map(str, cells)))
    heads = [f"{shift:g} after {good}" for good, shift in _columns()]
    print("| good parts | false alarms in 100 000 parts |", " | ".join(heads), "|")
    print("|", " | ".join(["---"] * (2 + len(heads))), "|")
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")
    return 0


def _columns() -> Iterator[tuple[int, float]]:
    for good in GOOD_BEFORE:
        for shift in SHIFTS:
            yield good, shift


def _delays(parts: int, shift: float, good: int, *, runs: int, seed: int) -> Delays:
    """Of `runs` lines that shift after so many good parts."""
    found = []
    for run in range(runs):
        line = _line(seed, parts, run, good + FOLLOWED)
        line[good:] += shift
        length = _run_length(parts, line, seed + run)
        if length is not None:
            found.append(length - good)
    if len(found) < runs / 2:
        return Delays(len(found) / runs, None, None)
    return Delays(len(found) / runs, float(np.median(found)), float(np.quantile(found, 0.9)))


def _line(seed: int, parts: int, run: int, length: int) -> NDArray[np.float64]:
    return np.random.default_rng([seed, parts, run, length]).normal(size=length)


def _run_length(parts: int, line: NDArray[np.float64], seed: int) -> int | None:
    """Parts until the alarm of one quantity among QUANTITIES, with the default settings."""
    rate = DriftSettings().parts_per_false_alarm
    reference = np.random.default_rng([seed, parts]).normal(size=parts).tolist()
    test = QuantityTest(reference, rate * QUANTITIES, rate * FALSE_ALARMS_PER_START)
    for index, value in enumerate(line, start=1):
        test.observe(value)
        if test.drifted:
            return index
    return None


if __name__ == "__main__":
    sys.exit(main())
