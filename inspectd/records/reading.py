"""Reading records back: for `inspectd records`, for a subscriber that missed some, and for a replay's comparison."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from inspectd.errors import StorageError
from inspectd.records.database import COLUMNS, LATE_COLUMNS, StoredPart, from_row, last_seq, open_for_reading

_SELECT = (
    "SELECT "  # noqa: S608 - column names of our own
    + ", ".join(f"parts.{column.strip()}" for column in f"{COLUMNS}, {LATE_COLUMNS}".split(","))
    + ", images.path FROM parts LEFT JOIN images ON images.seq = parts.seq"
)


class RecordReader:
    """A read-only view of one station's records; sees what a running daemon has committed. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open a records.db, or the one in a station's folder. Raises StorageError."""
        self._path = path
        self._connection = open_for_reading(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self._connection.close()

    def between(self, first: int, last: int, limit: int) -> list[StoredPart]:
        """At most `limit` parts with first <= seq <= last, by rising seq. Raises StorageError."""
        return self._select(" WHERE parts.seq BETWEEN ? AND ? ORDER BY parts.seq LIMIT ?", (first, last, limit))

    def last(self, count: int) -> list[StoredPart]:
        """The newest `count` parts, by rising seq. Raises StorageError."""
        return self._select(" ORDER BY parts.seq DESC LIMIT ?", (count,))[::-1]

    def newest(self) -> int:
        """The largest recorded sequence number, 0 where there is none. Raises StorageError."""
        try:
            return last_seq(self._connection)
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be read: {error}") from error

    def all(self, chunk: int = 1000) -> Iterator[StoredPart]:
        """Every part by rising seq, read in chunks, so that a writer is never held up. Raises StorageError."""
        after = -1
        while found := self._select(" WHERE parts.seq > ? ORDER BY parts.seq LIMIT ?", (after, chunk)):
            yield from found
            after = found[-1].verdict.seq

    def _select(self, rest: str, values: tuple[int, ...]) -> list[StoredPart]:
        try:
            rows = self._connection.execute(_SELECT + rest, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise StorageError(f"{self._path}: cannot be read: {error}") from error
        return [from_row(row) for row in rows]
