"""Rows -> the page of results: per table what was reached beside the paper's figures, what it costs, pictures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarking.plan import Plan, RowSettings, TableSettings
from benchmarking.results import Entry
from benchmarking.steps import MAPS, PICTURES, Row, write_text
from benchmarking.tables import (
    TableRow,
    category_table,
    cost_table,
    directions,
    engine_table,
    group_table,
    quality_table,
)
from inspectd.errors import StorageError

HEAD = """\
# Results

Written by `{command}` from the rows that it measured; do not edit. Every row is a bundle that `inspectd calibrate`
would make of the good parts alone, evaluated on labelled parts as `inspectd evaluate` does, by its compiled engine. The
words are those of docs/datasets.md and docs/scores.md; the settings of each row stand in `{plan}`.

In brackets: a 95 % bootstrap interval, for a mean over categories the lowest and the highest of them. The papers'
figures are those of their own data, which is not ours: compare directions rather than digits. Milliseconds are those of
one inference with one thread, in turns with the other engines of the row; "lost" is image AUROC against the f32 engine
of the same network. A time of calibration after `>` is that of the last attempt of an interrupted one.

Pictures: part scores of good and defective parts with the limit; the ROC curve with what all limits together do; the
weight of each region with its 95 % interval; parts beside their anomaly maps, the labelled defect outlined, coloured
from the median of the good ones shown to twice as far as they reach.
"""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where rows' pictures lie: drawn below `work` where the row was measured, and copied into the page's `folder`."""

    plan: Plan
    work: Path
    folder: Path

    def of(self, entry: Entry) -> dict[str, Path]:
        """The copy's file name -> the picture: as drawn, or where that is not at hand the copy that there is.

        Images of the data only where its licence allows it; nothing for a row without figures.
        """
        if entry.row is None or "pictures" not in entry.row:
            return {}
        drawn, name = self.work / entry.row["pictures"], entry.job.name.replace("/", "-")
        allowed = [file for file in PICTURES if file != MAPS or self.plan.data[entry.job.data].images]
        found = {}
        for file in allowed:
            copy = self.folder / f"{name}-{file}"
            picture = next((one for one in (drawn / file, copy) if one.is_file()), None)
            if picture is not None:
                found[copy.name] = picture
        return found


def results_page(plan: Plan, entries: Sequence[Entry], pictures: Pictures, *, command: str, plan_name: str) -> str:
    """The page in Markdown."""
    rows = [entry.row for entry in entries if entry.row is not None and "failed" not in entry.row]
    parts = [HEAD.format(command=command, plan=plan_name), machines_of(rows)]
    for table in plan.tables:
        table_rows = [TableRow(row, tuple(entry for entry in entries if _belongs(entry, row))) for row in table.rows]
        parts += _section(table, table_rows, pictures)
    return "\n\n".join(part for part in parts if part) + "\n"


def write_page(plan: Plan, entries: Sequence[Entry], page: Path, work: Path, *, command: str, plan_name: str) -> None:
    """Write the page, and the pictures that it shows into a folder beside it that has its name. Raises StorageError."""
    pictures = Pictures(plan, work, page.with_suffix(""))
    text = results_page(plan, entries, pictures, command=command, plan_name=plan_name)
    shown = _shown(pictures, entries)
    try:
        stale = [old for old in pictures.folder.glob("*.png") if old.name not in shown and old.name.endswith(PICTURES)]
        for old in stale:
            old.unlink()
        if shown:
            pictures.folder.mkdir(parents=True, exist_ok=True)
        for name, picture in shown.items():
            if picture != pictures.folder / name:
                shutil.copyfile(picture, pictures.folder / name)
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}") from error
    write_text(page, text)


def _shown(pictures: Pictures, entries: Sequence[Entry]) -> dict[str, Path]:
    """Every picture of the page, by the copy's file name."""
    wanted: dict[str, Path] = {}
    for row in (row for table in pictures.plan.tables for row in table.rows if row.pictures):
        for entry in entries:
            if _belongs(entry, row):
                wanted |= pictures.of(entry)
    return wanted


def _belongs(entry: Entry, row: RowSettings) -> bool:
    of_row = not row.categories or entry.job.category in row.categories
    return of_row and (entry.job.settings, entry.job.data) == (row.settings, row.data)


def _section(table: TableSettings, table_rows: Sequence[TableRow], pictures: Pictures) -> list[str]:
    measured = [table_row for table_row in table_rows if table_row.whole]
    parts = [f"## {table.title}"]
    parts += [f"Paper: {table.paper}."] if table.paper else []
    about = "What differs from the paper: " if table.paper else ""
    parts += [f"{about}{table.differs}"] if table.differs else []
    parts += [quality_table(measured), cost_table(measured), engine_table(measured)] if measured else []
    parts += [directions(table_rows), category_table(measured)]
    parts += [group_table(table_row, f"by_{group}") for group in table.by for table_row in measured]
    parts += [_sources(table), _missing(table_rows)]
    parts += [_pictures(table_row, pictures) for table_row in measured if table_row.row.pictures]
    return parts


def _sources(table: TableSettings) -> str:
    found = [f"- {row.name}: {row.paper.source}" for row in table.rows if row.paper is not None]
    return "\n".join(["The paper's figures:", "", *found]) if found else ""


def _missing(table_rows: Sequence[TableRow]) -> str:
    """Rows without figures, and why: nobody should have to guess whether they were forgotten."""
    found = []
    for table_row in table_rows:
        for entry in table_row.entries:
            if entry.row is None:
                found.append(f"- {table_row.row.name} ({entry.job.name}): {entry.refused or 'not measured yet'}")
            elif "failed" in entry.row:
                found.append(f"- {table_row.row.name} ({entry.job.name}): failed: {entry.row['failed']}")
            else:
                left_out = [one for one in entry.row["engines"] if one["left_out"]]
                found += [f"- {entry.job.name}, engine {one['precision']}: {one['left_out']}" for one in left_out]
        if not table_row.entries:
            found.append(f"- {table_row.row.name}: left out of this run")
    return "\n".join(["Without figures:", "", *found]) if found else ""


def _pictures(table_row: TableRow, pictures: Pictures) -> str:
    parts = []
    for entry in table_row.entries:
        shown = pictures.of(entry)
        if shown:
            parts.append(f"**{table_row.row.name}**, {entry.job.name}:")
            parts += [f"![{_alt(name)}]({pictures.folder.name}/{name})" for name in shown]
            data = pictures.plan.data[entry.job.data]
            if data.attribution and any(name.endswith(MAPS) for name in shown):
                parts.append(f"Images: {data.attribution}")
    return "\n\n".join(parts)


def _alt(name: str) -> str:
    return name.removesuffix(".png").replace("-", " ")


def machines_of(rows: Sequence[Row]) -> str:
    """Markdown: how many rows were measured on which machine, on which day and with which versions."""
    counted: dict[str, int] = {}
    for row in rows:
        counted[row["machine"]] = counted.get(row["machine"], 0) + 1
    return "\n".join(f"- {count} rows: {machine}" for machine, count in counted.items())
