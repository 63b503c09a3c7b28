"""What is kept, by age and by size: the oldest goes first, in small steps, in the recorder's thread."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from inspectd.messages import StoredImage
from inspectd.records.chain import Kind, anchor
from inspectd.records.clock import TOLERANCE_NS, SteadyClock
from inspectd.records.ledger import Ledger
from inspectd.records.sweep import Sweep
from inspectd.records.tables import TABLE

CHUNK = 200
PAUSE_S = 10.0
NS_PER_DAY = 86_400 * 1_000_000_000
_OLDEST = """
SELECT chain.entry, chain.kind, chain.seq, chain.hash, coalesce(parts.trigger_wall_ns, events.wall_ns, 0)
FROM chain LEFT JOIN parts ON chain.kind = 'part' AND parts.seq = chain.seq
LEFT JOIN events ON events.entry = chain.entry ORDER BY chain.entry LIMIT ?
"""
_OLD_BEHIND = "SELECT 1 FROM parts WHERE trigger_wall_ns < ? AND seq > ? LIMIT 1"
_WITNESS = "SELECT 1 FROM parts WHERE trigger_wall_ns BETWEEN ? AND ? LIMIT 1"
_Entry = tuple[int, str, int, bytes, int]
log = structlog.get_logger(__name__)


class Retention:
    """Deletes entries of the chain that are too old, then images, then entries, until all fit into `keep_bytes`.

    Entries go from the chain's beginning only, and `anchor` keeps the hash of the last one, so that what is left can
    still be proved. An image that goes before its row leaves its hash and the time when it went.

    Nothing goes for its age by the word of the clock alone: the time since must have left records of its own.
    """

    def __init__(self, ledger: Ledger, folder: Path, *, keep_days: float, keep_bytes: int) -> None:
        self._ledger = ledger
        self._folder = folder
        self._keep_ns = round(keep_days * NS_PER_DAY)
        self._keep_bytes = keep_bytes
        self._next_s = 0.0
        self._clock = SteadyClock()
        self._sweep = Sweep(ledger, folder)
        self._holds = False

    def step(self) -> bool:
        """Delete at most one chunk where it is time to; True if there was one. Raises sqlite3.Error, OSError."""
        self._sweep.step()
        if time.monotonic() < self._next_s:
            return False
        if self._delete_old() or self._make_room():
            return True
        self._next_s = time.monotonic() + PAUSE_S
        return False

    def used_bytes(self) -> int:
        """Images and database together. Free pages count as free: they are used again."""
        pages, free, size = (self._number(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
        images = "SELECT coalesce(sum(size_bytes), 0) FROM images WHERE deleted_wall_ns IS NULL"
        return (pages - free) * size + self._number(images)

    def discard(self, images: Iterable[StoredImage]) -> None:
        """Delete the files of images whose rows are given up: nothing would know of them. Raises OSError."""
        self._unlink([image.path for image in images])

    def _delete_old(self) -> bool:
        now_ns = self._clock.now_ns()
        old = [] if now_ns is None else self._too_old(now_ns)
        if now_ns is None or not old or not self._went_on(now_ns):
            return False
        self._delete_entries(old)
        return True

    def _too_old(self, now_ns: int) -> list[_Entry]:
        """What stands before the first part that is young enough; late scores and images go with it.

        A part that a wrong clock stamped with a time to come is as old as the parts behind it.
        """
        before_wall_ns = now_ns - self._keep_ns
        old: list[_Entry] = []
        for entry in self._oldest():
            _, _, seq, _, wall_ns = entry
            ahead = wall_ns > now_ns + TOLERANCE_NS
            if wall_ns >= before_wall_ns and not (ahead and self._any(_OLD_BEHIND, before_wall_ns, seq)):
                break
            old.append(entry)
        return old

    def _went_on(self, now_ns: int) -> bool:
        """Whether a part was recorded between half of `keep_days` ago and all of it; else it is logged once.

        A clock that is far ahead at the start has no such part behind it; nor has a line that stood still for long,
        whose old records then wait until its new ones have come of age.
        """
        went_on = self._any(_WITNESS, now_ns - self._keep_ns, now_ns - self._keep_ns // 2)
        if not went_on and not self._holds:
            why = "no part was recorded for long, or the wall clock is wrong: no record is deleted for its age yet"
            log.warning(why, keep_days=self._keep_ns / NS_PER_DAY)
        self._holds = not went_on
        return went_on

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
        self._unlink(paths)

    def _unlink(self, paths: list[str]) -> None:
        for path in paths:
            file = self._folder / path
            file.unlink(missing_ok=True)
            with suppress(OSError):
                file.parent.rmdir()  # succeeds for the last image of a day only

    def _any(self, query: str, *values: int) -> bool:
        return self._ledger.connection.execute(query, values).fetchone() is not None

    def _number(self, query: str) -> int:
        return int(self._ledger.connection.execute(query).fetchone()[0])
