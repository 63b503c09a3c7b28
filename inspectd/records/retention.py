"""What is kept, by age and by size: the oldest goes first, in small steps, in the recorder's thread."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from inspectd.records.chain import Kind, anchor
from inspectd.records.ledger import Ledger
from inspectd.records.tables import TABLE

CHUNK = 200
PAUSE_S = 10.0
NS_PER_DAY = 86_400 * 1_000_000_000
_OLDEST = """
SELECT chain.entry, chain.kind, chain.seq, chain.hash, coalesce(parts.trigger_wall_ns, events.wall_ns, 0)
FROM chain LEFT JOIN parts ON chain.kind = 'part' AND parts.seq = chain.seq
LEFT JOIN events ON events.entry = chain.entry ORDER BY chain.entry LIMIT ?
"""
_Entry = tuple[int, str, int, bytes, int]


class Retention:
    """Deletes entries of the chain that are too old, then images, then entries, until all fit into `keep_bytes`.

    Entries go from the chain's beginning only, and `anchor` keeps the hash of the last one, so that what is left can
    still be proved. An image that goes before its row leaves its hash and the time when it went.
    """

    def __init__(self, ledger: Ledger, folder: Path, *, keep_days: float, keep_bytes: int) -> None:
        self._ledger = ledger
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
        images = "SELECT coalesce(sum(size_bytes), 0) FROM images WHERE deleted_wall_ns IS NULL"
        return (pages - free) * size + self._number(images)

    def _delete_old(self, before_wall_ns: int) -> bool:
        """What stands before the first part that is young enough; late scores and images go with it."""
        old: list[_Entry] = []
        for entry in self._oldest():
            if entry[4] >= before_wall_ns:
                break
            old.append(entry)
        self._delete_entries(old)
        return bool(old)

    def _make_room(self) -> bool:
        if self.used_bytes() <= self._keep_bytes:
            return False
        query = "SELECT seq FROM images WHERE deleted_wall_ns IS NULL ORDER BY seq LIMIT ?"
        images = [seq for (seq,) in self._ledger.connection.execute(query, (CHUNK,))]
        if images:
            self._delete_images(images)
            return True
        entries = self._oldest()
        self._delete_entries(entries)
        return bool(entries)

    def _oldest(self) -> list[_Entry]:
        return self._ledger.connection.execute(_OLDEST, (CHUNK,)).fetchall()

    def _delete_entries(self, entries: list[_Entry]) -> None:
        """Entries from the chain's beginning, with all that they speak for."""
        if not entries:
            return
        self._delete_images([seq for _, kind, seq, _, _ in entries if kind == Kind.IMAGE])
        connection = self._ledger.connection
        with self._ledger.transaction():
            begins = anchor(connection)
            for kind, table in TABLE.items():
                seqs = [(seq,) for _, of, seq, _, _ in entries if of == kind]
                connection.executemany(f"DELETE FROM {table} WHERE seq = ?", seqs)  # noqa: S608 - names of our own
            last, _, _, last_hash, _ = entries[-1]
            gone = [seq for _, kind, seq, _, _ in entries if kind == Kind.PART]
            gaps = "SELECT last_seq FROM events WHERE kind = 'gap' AND entry <= ?"
            gone += [to_seq for (to_seq,) in connection.execute(gaps, (last,))]
            connection.execute("DELETE FROM events WHERE entry <= ?", (last,))
            connection.execute("DELETE FROM chain WHERE entry <= ?", (last,))
            connection.execute("DELETE FROM anchor")
            connection.execute("INSERT INTO anchor VALUES (?, ?, ?)", (last, last_hash, max([begins.max_seq, *gone])))
        connection.execute(f"PRAGMA incremental_vacuum({CHUNK})").fetchall()

    def _delete_images(self, seqs: list[int]) -> None:
        """The mark before the file: a file that is gone without a mark would look as if somebody had removed it."""
        connection, now_ns = self._ledger.connection, time.time_ns()
        paths: list[str] = []
        with self._ledger.transaction():
            for seq in seqs:
                paths += [path for (path,) in connection.execute("SELECT path FROM images WHERE seq = ?", (seq,))]
                mark = "UPDATE images SET deleted_wall_ns = coalesce(deleted_wall_ns, ?) WHERE seq = ?"
                connection.execute(mark, (now_ns, seq))
        for path in paths:
            file = self._folder / path
            file.unlink(missing_ok=True)
            with suppress(OSError):
                file.parent.rmdir()  # succeeds for the last image of a day only

    def _number(self, query: str) -> int:
        return int(self._ledger.connection.execute(query).fetchone()[0])
