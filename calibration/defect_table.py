"""A table of defects beside a data set: file, severity and size of each, as spreadsheets write it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calibration.errors import DataError

COLUMNS: Final = ("file", "severity", "size_px")
SEPARATORS: Final = ",;\t"


@dataclass(frozen=True, slots=True)
class DefectTable:
    """path: the table. rows: (severity, size in pixels or None) by the file's name below the data folder, with /."""

    path: Path
    rows: dict[str, tuple[str, float | None]]


def find_table(tables: Sequence[Path]) -> DefectTable | None:
    """The first of these CSV files that has the columns `file`, `severity` and `size_px`; None where none has.

    Columns are separated by comma, semicolon or tab; numbers may have a decimal comma; paths may have backslashes.
    Raises DataError for a table that cannot be read.
    """
    for path in tables:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                head = file.readline()
                separator = max(SEPARATORS, key=head.count)
                file.seek(0)
                reader = csv.DictReader(file, delimiter=separator)
                if set(COLUMNS) <= {name.strip() for name in reader.fieldnames or ()}:
                    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
                    return DefectTable(path, dict(map(_row, reader)))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as a table of defects: {error}") from error
    return None


def _row(row: dict[str, str]) -> tuple[str, tuple[str, float | None]]:
    size = float(row["size_px"].strip().replace(",", ".") or "nan") if row["size_px"] else math.nan
    name = (row["file"] or "").strip().replace("\\", "/").removeprefix("./")
    return name, ((row["severity"] or "").strip(), size if math.isfinite(size) else None)
