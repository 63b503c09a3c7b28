"""What a replay found -> tables for people, one JSON document, CSV rows."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engines.labels import GOOD
from inspectd.errors import StorageError
from inspectd.messages import Outcome
from inspectd.replay.compare import Change, Comparison, Said
from inspectd.replay.line import Replayed
from inspectd.wire.public import Json

MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Run:
    """One bundle's replay: its hash, what ran, and the parts in footage order."""

    bundle_hash: str
    engine: str
    parts: Sequence[Replayed]


def run_json(run: Run) -> Json:
    """The run as JSON-ready values, every part with its scores in full precision."""
    return {
        "bundle": run.bundle_hash,
        "engine": run.engine,
        "verdicts": {outcome.value: count for outcome, count in _outcomes(run.parts).items()},
        "reasons": dict(Counter(item.record.verdict.reason.value for item in run.parts)),
        "parts": [_part_json(item) for item in run.parts],
    }


def comparison_json(comparison: Comparison) -> Json:
    """The comparison as JSON-ready values."""
    return {
        "compared": comparison.compared,
        "unmatched": comparison.unmatched,
        "changed": [_change_json(change) for change in comparison.changed],
        "judged_now": [_change_json(change) for change in comparison.judged_now],
        "rank_correlation": comparison.rank_correlation,
        "largest_shift": comparison.largest_shift,
    }


def print_run(console: Console, run: Run, about: str) -> None:
    """Parts by verdict and reason, and by label where the footage knows the truth."""
    console.print(f"{about}: {len(run.parts)} parts, bundle {run.bundle_hash[:16]}, {run.engine}")
    table = _table("verdict", "reason", "parts>", "share>")
    reasons = Counter((item.record.verdict.outcome, item.record.verdict.reason) for item in run.parts)
    order = list(Outcome)
    for (outcome, reason), count in sorted(reasons.items(), key=lambda row: (order.index(row[0][0]), -row[1])):
        table.add_row(outcome.value, reason.value, str(count), f"{count / len(run.parts):.1%}")
    console.print(table)
    if any(item.part.label for item in run.parts):
        console.print(_by_label(run.parts))


def print_comparison(console: Console, comparison: Comparison, old: str, new: str) -> None:
    """What changed between `old` and `new`, the first MOST_SHOWN parts by name."""
    counted = f"{comparison.compared} parts compared"
    if comparison.unmatched:
        counted += f", {comparison.unmatched} not in {old}"
    if comparison.judged_now:
        counted += f", {len(comparison.judged_now)} that were not judged in time then"
    rank = "" if comparison.rank_correlation is None else f"rank correlation {comparison.rank_correlation:.6f}, "
    console.print(f"{old} -> {new}: {len(comparison.changed)} verdicts changed ({counted})")
    console.print(f"part scores: {rank}largest shift {comparison.largest_shift:.3%}")
    for title, changes in (("changed", comparison.changed), ("judged now", comparison.judged_now)):
        if changes:
            console.print(_changes(title, changes))
        if len(changes) > MOST_SHOWN:
            console.print(f"... and {len(changes) - MOST_SHOWN} more: --json lists all")


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    """One row for each part of each run. Raises StorageError where the file cannot be written."""
    regions = [name for name, _ in runs[0].parts[0].record.verdict.thresholds.regions] if runs[0].parts else []
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            head = (
                "bundle",
                "part_id",
                "file",
                "source",
                "label",
                "verdict",
                "reason",
                "detail",
                "part_score",
                "limit",
            )
            writer.writerow((*head, *(f"score {name}" for name in regions)))
            for run in runs:
                writer.writerows(_csv_rows(run, regions))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _outcomes(parts: Sequence[Replayed]) -> dict[Outcome, int]:
    counted = Counter(item.record.verdict.outcome for item in parts)
    return {outcome: counted[outcome] for outcome in Outcome}


def _part_json(item: Replayed) -> Json:
    verdict = item.record.verdict
    return {
        "part_id": item.part.part_id,
        "seq": item.part.seq,
        "file": item.part.file,
        "source": item.part.source,
        "label": item.part.label,
        "verdict": verdict.outcome.value,
        "reason": verdict.reason.value,
        "detail": verdict.detail,
        "part_score": verdict.part_score,
        "region_scores": dict(verdict.region_scores),
    }


def _change_json(change: Change) -> Json:
    part = change.part
    return {
        "part_id": part.part_id,
        "seq": part.seq,
        "file": part.file,
        "label": part.label,
        "old": _said_json(change.old),
        "new": _said_json(change.new),
    }


def _said_json(said: Said) -> Json:
    return {
        "verdict": said.outcome.value,
        "reason": said.reason.value,
        "part_score": _finite(said.part_score),
        "limit": _finite(said.limit),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _csv_rows(run: Run, regions: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for item in run.parts:
        verdict, scores = item.record.verdict, dict(item.record.verdict.region_scores)
        yield (
            run.bundle_hash,
            item.part.part_id,
            item.part.file,
            item.part.source,
            item.part.label,
            verdict.outcome.value,
            verdict.reason.value,
            verdict.detail,
            "" if verdict.part_score is None else repr(verdict.part_score),
            repr(verdict.thresholds.part),
            *(repr(scores[name]) if name in scores else "" for name in regions),
        )


def _by_label(parts: Sequence[Replayed]) -> Table:
    table = _table("label", "parts>", *(f"{outcome.value}>" for outcome in Outcome))
    labels = sorted({item.part.label for item in parts}, key=lambda label: (label != GOOD, label))
    for label in labels:
        chosen = [item for item in parts if item.part.label == label]
        table.add_row(label or "unknown", str(len(chosen)), *(str(count) for count in _outcomes(chosen).values()))
    return table


def _changes(title: str, changes: Sequence[Change]) -> Table:
    table = _table(title, "label", "verdict", "part score>", "limit>")
    for change in changes[:MOST_SHOWN]:
        old, new = change.old, change.new
        table.add_row(
            change.part.part_id,
            change.part.label,
            f"{_verdict(old)} -> {_verdict(new)}",
            f"{_number(old.part_score)} -> {_number(new.part_score)}",
            _number(new.limit) if old.limit == new.limit else f"{_number(old.limit)} -> {_number(new.limit)}",
        )
    return table


def _table(*columns: str) -> Table:
    """A plain table; a column whose name ends with > is right-aligned."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left")
    return table


def _verdict(said: Said) -> str:
    return f"{said.outcome.value} ({said.reason.value})" if said.outcome is Outcome.INVALID else said.outcome.value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
