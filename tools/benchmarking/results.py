"""`benchmark.py results`: every row of a plan that has no figures yet, one process each; failures are kept and told."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from benchmarking.machine import markdown_table
from benchmarking.plan import Job, Plan, defaults_of, described, jobs_of, key_of, station_of, unchanged
from benchmarking.steps import (
    TOOLS,
    Row,
    StepFailed,
    Tell,
    TookTooLong,
    follow,
    read_rows,
    render_simulated,
    shown_on,
    write_rows,
)
from engines.errors import one_line
from inspectd.errors import InspectdError, StorageError

NEEDED = ("name", "key", "settings")
JOB_FILE, LOG_FILE = "job.json", "log.txt"
PAUSE_S = 5.0
"""How often a file that asks for quiet is looked at."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a run keeps things, and what it may do.

    out: file of rows. work: bundles, rendered sets, unfinished trainings, pictures. again: also measure rows that are
    done; retry: also those that failed. quiet: no row is begun while this file exists.
    """

    plan: Plan
    out: Path
    work: Path
    again: bool = False
    retry: bool = False
    quiet: Path | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One job, the row that there is of it (None: not yet), and its settings or why they are refused."""

    job: Job
    row: Row | None
    settings: Mapping[str, Any]
    station_file: Path | None
    refused: str = ""


def entries_of(bench: Bench, only: Sequence[str]) -> list[Entry]:
    """Every job of the plan, or those that `only` names (patterns), with the row that there is of its settings now.

    Raises StorageError for a pattern that fits nothing, or a file of rows that is not ours.
    """
    rows = {row["name"]: row for row in read_rows(bench.out, NEEDED)}
    jobs = jobs_of(bench.plan)
    for pattern in only:
        if not any(_fits(job, pattern) for job in jobs):
            known = ", ".join(job.name for job in jobs[:12])
            raise StorageError(f"the plan has no row like {pattern}; there are {known}{', ...' * (len(jobs) > 12)}")
    chosen = [job for job in jobs if not only or any(_fits(job, pattern) for pattern in only)]
    return [_entry(bench, job, rows.get(job.name)) for job in chosen]


def _fits(job: Job, pattern: str) -> bool:
    return pattern in {job.settings, job.data, job.category} or fnmatch(job.name, pattern)


def _entry(bench: Bench, job: Job, row: Row | None) -> Entry:
    try:
        station, path = station_of(bench.plan, job, bench.work / "stations")
    except InspectdError as error:
        known = row is not None and row["settings"].get("refused") == str(error)
        return Entry(job, row if known else None, {}, None, str(error))
    settings = described(bench.plan, job, station)
    known = row is not None and unchanged(row["settings"], settings, defaults_of(station))
    return Entry(job, row if known else None, settings, path)


def measure_rows(bench: Bench, entries: Sequence[Entry], bars: Progress, tell: Callable[[str], None]) -> list[Entry]:
    """Measure what has no row yet; every row is written as soon as it is there. Blocks for minutes each.

    Returns the entries with their rows; a row that failed holds `failed`, one line. Raises StorageError.
    """
    whole = bars.add_task("rows", total=len(entries))
    step = bars.add_task("", total=None)
    done = []
    for entry in entries:
        bars.update(whole, description=entry.job.name)
        if not _wanted(bench, entry):
            done.append(entry)
            bars.advance(whole)
            continue
        _wait_for_quiet(bench.quiet, tell)
        started_s = time.monotonic()
        row = _measure(bench, entry, bars, step)
        row["took_s"] = round(time.monotonic() - started_s, 1)
        others = [old for old in read_rows(bench.out, NEEDED) if old["name"] != entry.job.name]
        write_rows(bench.out, [*others, row])
        tell(f"{entry.job.name}: {'failed: ' + row['failed'] if 'failed' in row else 'done'} ({row['took_s']:.0f} s)")
        done.append(Entry(entry.job, row, entry.settings, entry.station_file, entry.refused))
        bars.advance(whole)
    return done


def _wanted(bench: Bench, entry: Entry) -> bool:
    if entry.row is None:
        return True
    return bench.again or (bench.retry and "failed" in entry.row)


def _wait_for_quiet(quiet: Path | None, tell: Callable[[str], None]) -> None:
    if quiet is not None and quiet.exists():
        tell(f"waiting: {quiet} exists")
        while quiet.exists():
            time.sleep(PAUSE_S)


def _measure(bench: Bench, entry: Entry, bars: Progress, step: TaskID) -> Row:
    """Figures, or a row with `failed`: what goes wrong with one row is no reason to leave the others out."""
    about: Row = {
        "name": entry.job.name,
        "key": key_of({**entry.settings, "name": entry.job.name}),
        "settings": dict(entry.settings) or {"refused": entry.refused},
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    try:
        if entry.station_file is None:
            raise StepFailed(entry.refused)
        folder = bench.work / "rows" / entry.job.name.replace("/", "-") / about["key"]
        if bench.again and entry.row is not None:
            shutil.rmtree(folder, ignore_errors=True)
        minutes, tell = entry.job.timeout_min, shown_on(bars, step)
        figures = run_row(_job_file(bench, entry, folder), folder, tell, most_s=60 * minutes)
    except TookTooLong:
        return {**about, "failed": f"took longer than {minutes:g} min; give it more time, or fewer steps"}
    except (InspectdError, OSError) as error:
        return {**about, "failed": one_line(str(error))}
    return {**about, **figures, "pictures": str((folder / "pictures").relative_to(bench.work))}


def _job_file(bench: Bench, entry: Entry, folder: Path) -> Path:
    plan, job = bench.plan, entry.job
    data = plan.data[job.data]
    if data.simulated is not None:
        source = render_simulated(bench.work, **data.simulated.model_dump())
    else:
        source = Path(data.folder or "") / job.category
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "station": str(entry.station_file),
        "data": str(source),
        "layout": data.layout,
        "preset": plan.settings[job.settings].preset or plan.preset,
        "precisions": plan.precisions,
        "timing_s": plan.timing_s,
        "out": str(folder),
    }
    path = folder / JOB_FILE
    path.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    return path


def run_row(
    job_file: Path,
    folder: Path,
    tell: Tell,
    *,
    most_s: float | None,
    environment: Mapping[str, str] | None = None,
) -> Row:
    """Run the job's process to its end, or to its time-out, and read its figures; `folder` takes its log.

    environment: None: that of this program. Raises TookTooLong, StepFailed with its own last line.
    """
    command = [sys.executable, str(TOOLS / "benchmark.py"), "row", "--job", str(job_file)]
    follow(command, folder / LOG_FILE, tell, environment=environment, most_s=most_s)
    figures: Row = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return figures


def list_of(entries: Sequence[Entry]) -> str:
    """Markdown: each row, whether there are figures of its settings as they are now, and how long it took."""
    rows = []
    for entry in entries:
        state, took = "not yet", "-"
        if entry.row is not None:
            state = f"failed: {entry.row['failed']}" if "failed" in entry.row else "done"
            took = f"{entry.row['took_s']:.0f}"
        elif entry.refused:
            state = f"refused: {entry.refused}"
        rows.append((entry.job.name, took, state))
    return markdown_table(("row", "s", "state"), rows)
