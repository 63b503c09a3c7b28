"""How well stations learn: calibrate and evaluate each set as a user does; finished rows are kept, so it can resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarking.machine import markdown_table
from benchmarking.steps import Row, rate_text, read_rows, render_simulated, run_python, write_rows
from engines.artifact import open_bundle, resolve_bundle
from inspectd.errors import StorageError

NEEDED = ("name", "preset")
SIMULATED = "smdc"
FIGURES = (
    "good",
    "defective",
    "image_auroc",
    "fpr_at_95tpr",
    "tpr_at_10fpr",
    "pixel_auroc",
    "pro",
    "false_rejects",
    "false_reject_rate",
    "false_reject_interval",
    "escapes",
    "escape_rate",
    "escape_interval",
)


@dataclass(frozen=True, slots=True)
class Task:
    """One set to calibrate a station from, and to evaluate it on. data: None where it is rendered."""

    name: str
    station: str
    data: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How stations are trained, and how many parts of the simulated line `smdc` is learnt from and tested on."""

    preset: str
    train: int
    good: int
    defective: int


def tasks(data: Path, only: Sequence[str]) -> list[Task]:
    """`smdc`, then `texture` on every category below `data`; those of `only`, where it names some.

    Raises StorageError for a folder without categories or a name that is not there.
    """
    categories = (
        sorted(folder for folder in data.iterdir() if (folder / "train" / "good").is_dir()) if data.is_dir() else []
    )
    found = [
        Task(SIMULATED, SIMULATED, None),
        *(Task(folder.name, "texture", folder.resolve()) for folder in categories),
    ]
    unknown = set(only) - {task.name for task in found}
    if unknown:
        known = ", ".join(task.name for task in found)
        raise StorageError(f"{data}: no set named {', '.join(sorted(unknown))}; there are {known}")
    if not categories and not only:
        raise StorageError(f"{data}: holds no category in MVTec layout (<category>/train/good); name another --data")
    return [task for task in found if not only or task.name in only]


def measure(chosen: Sequence[Task], plan: Plan, out: Path, work: Path, tell: Callable[[str], None]) -> list[Row]:
    """Calibrate and evaluate each set that `out` has no row of, and add its row there; blocks for minutes each.

    work: folder for rendered sets, bundles and unfinished trainings. Raises StepFailed, StorageError, BundleError.
    """
    rows = read_rows(out, NEEDED)
    done = {(row["name"], row["preset"]) for row in rows}
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(chosen, start=1):
        tell(f"{task.name} ({number} of {len(chosen)})")
        if (task.name, plan.preset) in done:
            continue
        rows.append(_measure(task, work, plan))
        write_rows(out, rows)
    names = {task.name for task in chosen}
    return [row for row in rows if row["name"] in names and row["preset"] == plan.preset]


def accuracy_tables(rows: Sequence[Row]) -> str:
    """Markdown: one row for each set, the mean of the categories, and the simulated line by severity."""
    head = ("set", "station", "bundle", "image AUROC", "pixel AUROC", "PRO", "FPR@95TPR", "TPR@10FPR")
    rates = ("set", "false rejects", "promised", "escapes", "engine", "calibrated in s")
    body, promises = [], []
    for row in rows:
        body.append((row["name"], row["station"], row["bundle"], *_quality(row)))
        low, high = row["promised"]
        promises.append(
            (
                row["name"],
                rate_text(row, "false_reject"),
                f"{low:.1%} to {high:.1%}",
                rate_text(row, "escape"),
                row["precision"],
                f"{row['calibration_s']:.0f}",
            )
        )
    categories = [row for row in rows if row["name"] != SIMULATED]
    if len(categories) > 1:
        body.append(("**mean of the categories**", "", "", *_quality(_mean(categories))))
    tables = [markdown_table(head, body), markdown_table(rates, promises)]
    for row in rows:
        for group in ("by_severity", "by_type", "by_size"):
            if len(row[group]) > 1:
                parts = [
                    (name, str(f["defective"]), *_quality(f), rate_text(f, "escape")) for name, f in row[group].items()
                ]
                about = (f"{row['name']}, {group.replace('_', ' ')}", "parts", *head[3:], "escapes")
                tables.append(markdown_table(about, parts))
    return "\n\n".join(tables)


def _measure(task: Task, work: Path, plan: Plan) -> Row:
    data = task.data or render_simulated(work, train=plan.train, good=plan.good, defective=plan.defective)
    preset = plan.preset
    out = work / "bundles" / f"{task.name}-{preset}"
    started_s = time.monotonic()
    before = _bundles(out)
    command = ("calibrate", "--station", task.station, "--data", str(data), "--out", str(out), "--preset", preset)
    _inspectd(work, *command)
    took_s = time.monotonic() - started_s
    made = sorted(_bundles(out) - before) or [resolve_bundle(out)]
    bundle = open_bundle(made[-1])
    evaluated = json.loads(_inspectd(work, "evaluate", "--bundle", str(bundle.folder), "--data", str(data), "--json"))
    limits = bundle.thresholds
    return {
        "name": task.name,
        "preset": preset,
        "station": task.station,
        "bundle": bundle.short_hash,
        "precision": bundle.manifest.engine.precision,
        "calibration_s": round(took_s, 1),
        "promised": [limits.low, limits.high],
        "asked_rate": limits.asked_rate,
        **{name: evaluated[name] for name in FIGURES},
        **{group: evaluated[group] for group in ("by_severity", "by_type", "by_size")},
    }


def _bundles(out: Path) -> set[Path]:
    return {manifest.parent for manifest in out.glob("*/*/manifest.json") if not manifest.parent.is_symlink()}


def _inspectd(work: Path, *arguments: str) -> str:
    return run_python(["-m", "inspectd", *arguments], work)


def _quality(figures: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("image_auroc", "pixel_auroc", "pro", "fpr_at_95tpr", "tpr_at_10fpr")
    return tuple("-" if figures[name] is None else f"{figures[name]:.4f}" for name in names)


def _mean(rows: Sequence[Row]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in ("image_auroc", "pixel_auroc", "pro", "fpr_at_95tpr", "tpr_at_10fpr"):
        values = [row[name] for row in rows]
        means[name] = None if None in values else sum(values) / len(values)
    return means
