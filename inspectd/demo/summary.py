"""What the records of a labelled stream say: verdicts, false rejects, escapes by defect type, latencies."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from inspectd.messages import Outcome
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart

GOOD = "good"
SEVERITIES = ("plain", "moderate", "faint")
WIDTH = 110
NS_PER_MS = 1e6


@dataclass(slots=True)
class Tally:
    """How many parts of one kind, how many of them passed, and how many could not be inspected."""

    parts: int = 0
    passed: int = 0
    invalid: int = 0

    def add(self, part: StoredPart) -> None:
        """Count one part."""
        self.parts += 1
        self.passed += part.verdict.outcome is Outcome.PASS
        self.invalid += part.verdict.outcome is Outcome.INVALID


def print_summary(records: Path, *, seconds: float) -> None:
    """Print the tables for a station's records folder. Raises StorageError."""
    with RecordReader(records) as reader:
        parts = list(reader.all())
    console = Console(width=WIDTH)
    console.print(_defects(parts))
    console.print(_totals(parts, seconds))


def severity(part: StoredPart) -> str:
    """How plain the simulated defect is: the third step of the part's source, or ''."""
    steps = part.source.split("/")
    return steps[2] if len(steps) > 2 else ""


def _defects(parts: list[StoredPart]) -> Table:
    by_type: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    for part in parts:
        if part.verdict.label != GOOD:
            by_type[part.verdict.label][severity(part)].add(part)
    table = Table(title="escapes by defect type: passed / inspected", title_justify="left", box=None, pad_edge=False)
    table.add_column("defect")
    for name in (*SEVERITIES, "all"):
        table.add_column(name, justify="right")
    total: dict[str, Tally] = defaultdict(Tally)
    for label, tallies in sorted(by_type.items()):
        table.add_row(label, *_cells(tallies))
        for name, tally in tallies.items():
            total[name].parts += tally.parts
            total[name].passed += tally.passed
    table.add_section()
    table.add_row("all", *_cells(total))
    return table


def _cells(tallies: dict[str, Tally]) -> list[str]:
    counts = [(tallies[name].passed, tallies[name].parts) for name in SEVERITIES]
    counts.append((sum(passed for passed, _ in counts), sum(parts for _, parts in counts)))
    return [f"{passed} / {parts}" for passed, parts in counts]


def _totals(parts: list[StoredPart], seconds: float) -> Table:
    good, all_parts = Tally(), Tally()
    for part in parts:
        all_parts.add(part)
        if part.verdict.label == GOOD:
            good.add(part)
    rejected = all_parts.parts - all_parts.passed - all_parts.invalid
    false_rejects = good.parts - good.passed
    latencies_ms = np.array([(p.verdict.verdict_ns - p.verdict.trigger_ns) / NS_PER_MS for p in parts] or [np.nan])
    p50, p99 = np.percentile(latencies_ms, (50, 99))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("parts", f"{all_parts.parts}: {good.parts} good, {all_parts.parts - good.parts} defective")
    table.add_row("verdicts", f"{all_parts.passed} PASS, {rejected} REJECT, {all_parts.invalid} INVALID")
    table.add_row("false rejects", f"{false_rejects} of {good.parts} good parts ({_share(false_rejects, good.parts)})")
    table.add_row("trigger to verdict", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {latencies_ms.max():.1f} ms")
    table.add_row("demo took", f"{seconds:.0f} s")
    return table


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "none seen"
