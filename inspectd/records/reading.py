"""Reading records back: for `inspectd records`, for a subscriber that missed some, and for a replay's comparison."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from inspectd.errors import StorageError
from inspectd.records.database import DATABASE_NAME, last_seq, open_for_reading
from inspectd.records.rows import StoredPart, from_row
from inspectd.records.tables import SELECT_PARTS


class RecordReader:
    """A read-only view of one station's records; sees what a running daemon has committed. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open a records.db, or the one in a station's folder. Raises StorageError."""
        self._path = path / DATABASE_NAME if path.is_dir() else path
        self._connection = open_for_reading(path)
        self._inode = self._path.stat().st_ino

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

    def untold(self, look_back: int = 10_000) -> list[StoredPart]:
        """Held rejects among the newest parts that were never told: a kill came first. Raises StorageError."""
        newest = " WHERE parts.seq > (SELECT max(seq) FROM parts) - ? AND told_rejects.seq IS NULL "
        held = "AND json_extract(parts.reject, '$.command') = 'held' ORDER BY parts.seq"
        return self._select(newest + held, (look_back,))

    def newest(self) -> int:
        """The largest recorded sequence number, 0 where there is none. Raises StorageError."""
        self._follow()
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

    def triggered(self, since_wall_ns: int, until_wall_ns: int, chunk: int = 1000) -> Iterator[StoredPart]:
        """Parts triggered from `since` on and before `until`, by their time; read in chunks. Raises StorageError."""
        after, seq = since_wall_ns, -1
        query = (
            " WHERE (parts.trigger_wall_ns, parts.seq) > (?, ?) AND parts.trigger_wall_ns < ?"
            " ORDER BY parts.trigger_wall_ns, parts.seq LIMIT ?"
        )
        while found := self._select(query, (after, seq, until_wall_ns, chunk)):
            yield from found
            after, seq = found[-1].verdict.trigger_wall_ns, found[-1].verdict.seq

    def count_triggered(self, since_wall_ns: int, until_wall_ns: int) -> int:
        """How many parts `triggered` would give now. Raises StorageError."""
        self._follow()
        query = "SELECT count(*) FROM parts WHERE trigger_wall_ns >= ? AND trigger_wall_ns < ?"
        try:
            return int(self._connection.execute(query, (since_wall_ns, until_wall_ns)).fetchone()[0])
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be read: {error}") from error

    def _follow(self) -> None:
        """Where the daemon set a damaged database aside, go on with the new one. Raises StorageError."""
        try:
            inode = self._path.stat().st_ino
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read: {error.strerror}") from error
        if inode != self._inode:
            self._connection.close()
            self._connection = open_for_reading(self._path)
            self._inode = inode

    def _select(self, rest: str, values: tuple[int, ...]) -> list[StoredPart]:
        self._follow()
        try:
            rows = self._connection.execute(SELECT_PARTS + rest, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise StorageError(f"{self._path}: cannot be read: {error}") from error
        return [from_row(row) for row in rows]
