"""A table of defects beside a data set: file, severity and size of each, as spreadsheets write it."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from calibration.errors import DataError

COLUMNS: Final = ("file", "severity", "size_px")
SEPARATORS: Final = ",;\t"
SEPARATOR_LINE: Final = "sep="


@dataclass(frozen=True, slots=True)
class DefectTable:
    """path: the table. rows: (severity, size in pixels or None) by the file's name below the data folder, with /."""

    path: Path
    rows: dict[str, tuple[str, float | None]]


def find_table(tables: Sequence[Path]) -> tuple[DefectTable | None, tuple[str, ...]]:
    """The first of these CSV files that has the columns `file`, `severity` and `size_px`, in any case; None without.

    Then what a person should know of these files, one line each: a second table, one that lacks a column, a row that
    is repeated. Columns are separated by comma, semicolon or tab; numbers may have a decimal comma; paths may have
    backslashes. Raises DataError for a table that cannot be read.
    """
    found: DefectTable | None = None
    notes: list[str] = []
    for path in tables:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = _reader(file)
                columns = [name.strip().lower() for name in reader.fieldnames or ()]
                lacking = [name for name in COLUMNS if name not in columns]
                if lacking:
                    if "file" in columns:
                        notes.append(f"{path}: is no table of defects: it lacks the column {' and '.join(lacking)}")
                elif found is None:
                    reader.fieldnames = columns
                    rows = list(map(_row, reader))
                    found = DefectTable(path, dict(rows))
                    notes += _repeated(path, rows)
                else:
                    notes.append(f"{path}: is not read, because {found.path.name} is a table of defects, too")
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as a table of defects: {error}") from error
    return found, tuple(notes)


def _reader(file: TextIO) -> csv.DictReader[str]:
    """From the line of columns on; some spreadsheets write `sep=;` above it."""
    head, start = file.readline(), 0
    separator = max(SEPARATORS, key=head.count)
    if head.lower().startswith(SEPARATOR_LINE):
        separator, start = head.strip()[len(SEPARATOR_LINE) :] or separator, len(head)
    file.seek(0)
    file.read(start)
    return csv.DictReader(file, delimiter=separator)


def _repeated(path: Path, rows: Sequence[tuple[str, tuple[str, float | None]]]) -> list[str]:
    counts = Counter(name for name, _ in rows)
    repeated = [name for name, count in counts.items() if count > 1]
    if not repeated:
        return []
    return [f"{path}: {len(repeated)} parts have several rows, such as {repeated[0]!r}; the last of them counts"]


def _row(row: dict[str, str]) -> tuple[str, tuple[str, float | None]]:
    size = float(row["size_px"].strip().replace(",", ".") or "nan") if row["size_px"] else math.nan
    name = (row["file"] or "").strip().replace("\\", "/").removeprefix("./")
    return name, ((row["severity"] or "").strip(), size if math.isfinite(size) else None)
