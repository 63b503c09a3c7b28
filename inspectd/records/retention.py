"""What is kept, by age and by size: the oldest goes first, in small steps, in the recorder's thread."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

CHUNK = 200
PAUSE_S = 10.0
NS_PER_DAY = 86_400 * 1_000_000_000


class Retention:
    """Deletes records and images that are too old, then images, then records, until all fit into `keep_bytes`."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, *, keep_days: float, keep_bytes: int) -> None:
        self._connection = connection
        self._folder = folder
        self._keep_ns = round(keep_days * NS_PER_DAY)
        self._keep_bytes = keep_bytes
        self._next_s = 0.0

    def step(self) -> bool:
        """Delete at most one chunk where it is time to; True if there was one. Raises sqlite3.Error, OSError."""
        if time.monotonic() < self._next_s:
            return False
        if self._delete_old(time.time_ns() - self._keep_ns) or self._make_room():
            return True
        self._next_s = time.monotonic() + PAUSE_S
        return False

    def used_bytes(self) -> int:
        """Images and database together. Free pages count as free: they are used again."""
        pages, free, size = (self._number(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size + self._number("SELECT coalesce(sum(size_bytes), 0) FROM images")

    def _delete_old(self, before_wall_ns: int) -> bool:
        rows = self._connection.execute(
            "SELECT seq FROM parts WHERE trigger_wall_ns < ? ORDER BY trigger_wall_ns LIMIT ?", (before_wall_ns, CHUNK)
        ).fetchall()
        self._delete_parts([seq for (seq,) in rows])
        return bool(rows)

    def _make_room(self) -> bool:
        if self.used_bytes() <= self._keep_bytes:
            return False
        images = self._connection.execute("SELECT seq FROM images ORDER BY seq LIMIT ?", (CHUNK,)).fetchall()
        if images:
            self._delete_images([seq for (seq,) in images])
            return True
        rows = self._connection.execute("SELECT seq FROM parts ORDER BY seq LIMIT ?", (CHUNK,)).fetchall()
        self._delete_parts([seq for (seq,) in rows])
        return bool(rows)

    def _delete_parts(self, seqs: list[int]) -> None:
        if seqs:
            self._delete_images(seqs)
            marks = ",".join("?" * len(seqs))
            self._connection.execute(f"DELETE FROM parts WHERE seq IN ({marks})", seqs)  # noqa: S608 - only marks
            self._connection.execute(f"PRAGMA incremental_vacuum({CHUNK})").fetchall()

    def _delete_images(self, seqs: list[int]) -> None:
        """The files first: a file without a row would never be found again, a row without a file does no harm."""
        marks = ",".join("?" * len(seqs))
        found = self._connection.execute(f"SELECT path FROM images WHERE seq IN ({marks})", seqs)  # noqa: S608
        for (path,) in found.fetchall():
            file = self._folder / path
            file.unlink(missing_ok=True)
            with suppress(OSError):
                file.parent.rmdir()  # succeeds for the last image of a day only
        self._connection.execute(f"DELETE FROM images WHERE seq IN ({marks})", seqs)  # noqa: S608

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])
