"""What the records of a labelled stream say: verdicts, false rejects, escapes by defect type, latencies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from engines.artifact import ThresholdSet
from engines.labels import GOOD
from inspectd.messages import Outcome, Reason
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart
from inspectd.terminal import PlainConsole

UNKNOWN = ""
"""The label of a part that the simulated camera gave no image of."""
BUSY_REASONS = {Reason.LATE, Reason.OVERLOAD}
BUSY = ": this machine is too slow for this line, or busy with something else"
SEVERITIES = ("plain", "moderate", "faint")
WIDTH = 110
NS_PER_MS = 1e6


@dataclass(slots=True)
class Tally:
    """How many parts of one kind were judged, and how many of those passed."""

    judged: int = 0
    passed: int = 0

    def add(self, other: Tally) -> None:
        """Count those too."""
        self.judged += other.judged
        self.passed += other.passed


def print_summary(records: Path, promised: ThresholdSet, *, seconds: float) -> None:
    """Print the tables for a station's records folder, judged by these limits. Raises StorageError."""
    with RecordReader(records) as reader:
        parts = list(reader.all())
    console = PlainConsole(width=WIDTH)
    console.print(_defects(parts))
    console.print(_totals(parts, promised, seconds))


def outcomes(records: Path) -> str:
    """How many parts of a station's records folder passed, were rejected, were INVALID. Raises StorageError."""
    with RecordReader(records) as reader:
        counts = Counter(part.verdict.outcome for part in reader.all())
    return ", ".join(f"{counts[outcome]} {outcome.name}" for outcome in Outcome)


def without_time(records: Path) -> int:
    """How many parts of a station's records folder are INVALID because no time was left. Raises StorageError."""
    with RecordReader(records) as reader:
        return sum(part.verdict.reason in BUSY_REASONS for part in reader.all())


def _tally(parts: Iterable[StoredPart]) -> Tally:
    """INVALID is no judgement of the part: limits had no say in it."""
    judged = [part.verdict for part in parts if part.verdict.outcome is not Outcome.INVALID]
    return Tally(len(judged), sum(verdict.outcome is Outcome.PASS for verdict in judged))


def severity(part: StoredPart) -> str:
    """How plain the simulated defect is: the third step of the part's source, or ''."""
    steps = part.source.split("/")
    return steps[2] if len(steps) > 2 else ""


def _defects(parts: list[StoredPart]) -> Table:
    by_type: dict[str, dict[str, list[StoredPart]]] = defaultdict(lambda: defaultdict(list))
    for part in parts:
        if part.verdict.label not in {GOOD, UNKNOWN}:
            by_type[part.verdict.label][severity(part)].append(part)
    table = Table(title="escapes by defect type: passed / judged", title_justify="left", box=None, pad_edge=False)
    table.add_column("defect")
    for name in (*SEVERITIES, "all"):
        table.add_column(name, justify="right")
    total = {name: Tally() for name in SEVERITIES}
    for label, kinds in sorted(by_type.items()):
        tallies = {name: _tally(kinds[name]) for name in SEVERITIES}
        table.add_row(label, *_cells(tallies))
        for name, tally in tallies.items():
            total[name].add(tally)
    table.add_section()
    table.add_row("all", *_cells(total))
    return table


def _cells(tallies: dict[str, Tally]) -> list[str]:
    whole = Tally()
    for tally in tallies.values():
        whole.add(tally)
    return [f"{tally.passed} / {tally.judged}" for tally in (*tallies.values(), whole)]


def _totals(parts: list[StoredPart], promised: ThresholdSet, seconds: float) -> Table:
    labels = Counter(part.verdict.label for part in parts)
    outcomes = Counter(part.verdict.outcome for part in parts)
    reasons = Counter(part.verdict.reason for part in parts if part.verdict.outcome is Outcome.INVALID)
    good = _tally(part for part in parts if part.verdict.label == GOOD)
    false_rejects = good.judged - good.passed
    latencies_ms = np.array([(p.verdict.verdict_ns - p.verdict.trigger_ns) / NS_PER_MS for p in parts] or [np.nan])
    p50, p99 = np.percentile(latencies_ms, (50, 99))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    kinds = f"{labels[GOOD]} good, {len(parts) - labels[GOOD] - labels[UNKNOWN]} defective"
    unknown = f", {labels[UNKNOWN]} of which no image came in time" if labels[UNKNOWN] else ""
    table.add_row("parts", f"{len(parts)}: {kinds}{unknown}")
    table.add_row("verdicts", ", ".join(f"{outcomes[outcome]} {outcome.value}" for outcome in Outcome))
    if reasons:
        told = ", ".join(f"{count} {reason.value}" for reason, count in reasons.most_common())
        table.add_row("INVALID", f"{told}{BUSY if BUSY_REASONS & reasons.keys() else ''}")
    rate = f"{promised.expected_rate:.1%} expected, {promised.low:.1%} to {promised.high:.1%}"
    share = _share(false_rejects, good.judged)
    table.add_row("false rejects", f"{false_rejects} of {good.judged} good parts judged ({share}; {rate})")
    table.add_row("trigger to verdict", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {latencies_ms.max():.1f} ms")
    table.add_row("demo took", f"{seconds:.0f} s")
    return table


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "none seen"
