"""What is kept, by age and by size: of rows and of images the oldest go first, in small steps, as the recorder runs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from inspectd.health.storage_watch import Shares, StorageWatch, Usage
from inspectd.messages import StoredImage
from inspectd.records.chain import Kind, anchor
from inspectd.records.clock import TOLERANCE_NS, SteadyClock
from inspectd.records.ledger import Ledger
from inspectd.records.sweep import Sweep
from inspectd.records.tables import TABLE
from inspectd.records.wal import Wal

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
_KEPT_IMAGES = "SELECT seq, size_bytes FROM images WHERE deleted_wall_ns IS NULL {} ORDER BY seq LIMIT ?"
_GO_FIRST = (  # images of passed parts, of invalid ones, then whatever is left
    "AND path NOT LIKE '%-REJECT.png' AND path NOT LIKE '%-INVALID.png'",
    "AND path NOT LIKE '%-REJECT.png'",
    "",
)
_EVIDENCE = "images.deleted_wall_ns IS NULL AND images.path NOT LIKE '%-PASS.png'"
_PACE_PARTS = 10_000
"""The newest parts, whose pace says how long the share of the rows lasts."""
_Entry = tuple[int, str, int, bytes, int]
log = structlog.get_logger(__name__)


class Retention:
    """Deletes entries of the chain that are too old; then images and entries, until all fit into `keep_bytes`.

    Neither side goes for the other's sake below its share of it; images of rejected parts go after all others.
    Entries go from the chain's beginning only, and `anchor` keeps the hash of the last one, so that what is left can
    still be proved. An image that goes before its row leaves its hash and the time when it went.

    Nothing goes for its age by the word of the clock alone: the time since must have left records of its own.
    """

    def __init__(self, ledger: Ledger, folder: Path, *, keep_days: float, shares: Shares, watch: StorageWatch) -> None:
        self._ledger = ledger
        self._folder = folder
        self._keep_ns = round(keep_days * NS_PER_DAY)
        self._shares = shares
        self._watch = watch
        self._next_s = 0.0
        self._clock = SteadyClock()
        self._sweep = Sweep(ledger, folder)
        self._wal = Wal(ledger, folder, shares.wal_bytes)
        self._holds = False

    def step(self) -> bool:
        """Delete at most one chunk where it is time to; True if there was one. Raises sqlite3.Error, OSError."""
        self._sweep.step()
        self._wal.step()
        if time.monotonic() < self._next_s:
            return False
        if self._delete_old() or self._make_room():
            return True
        self._tell()
        self._next_s = time.monotonic() + PAUSE_S
        return False

    def used_bytes(self) -> int:
        """Images, database and its WAL together. Free pages count as free: they are used again."""
        return self._usage().total_bytes

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
        usage = self._usage()
        images = self._images_to_go(self._shares.images_to_go_bytes(usage))
        if images:
            self._delete_images(images)
            return True
        if not self._shares.rows_to_go_bytes(usage):
            return False
        entries = self._oldest()
        self._delete_entries(entries)
        return bool(entries)

    def _images_to_go(self, excess_bytes: int) -> list[int]:
        """At most a chunk of images of one kind that take so much together, the oldest first; none for no excess."""
        for kind in _GO_FIRST if excess_bytes else ():
            going: list[int] = []
            for seq, size_bytes in self._ledger.connection.execute(_KEPT_IMAGES.format(kind), (CHUNK,)).fetchall():
                if excess_bytes <= 0:
                    break
                going.append(seq)
                excess_bytes -= size_bytes
            if going:
                return going
        return []

    def _usage(self) -> Usage:
        """What rows, images and WAL take; the quick part of it, for each step."""
        pages, free, size = (self._number(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
        images = "SELECT coalesce(sum(size_bytes), 0) FROM images WHERE deleted_wall_ns IS NULL"
        return Usage(
            rows_bytes=(pages - free) * size,
            images_bytes=self._number(images),
            wal_bytes=self._wal.size_bytes,
            pinned_by=self._wal.pinned_by,
        )

    def _tell(self) -> None:
        """Let health know how full the records are, and how long they last at this pace."""
        usage = self._usage()
        evidence = f"SELECT coalesce(sum(size_bytes), 0) FROM images WHERE {_EVIDENCE}"  # noqa: S608 - text of our own
        first_image = (
            "SELECT parts.trigger_wall_ns FROM images JOIN parts ON parts.seq = images.seq "  # noqa: S608 - as above
            f"WHERE {_EVIDENCE} ORDER BY images.seq LIMIT 1"
        )
        self._look_at_images()
        ends = "SELECT seq, trigger_wall_ns FROM parts ORDER BY seq {} LIMIT 1"
        oldest, newest = (self._ledger.connection.execute(ends.format(way)).fetchone() for way in ("ASC", "DESC"))
        if oldest is None:
            self._watch.take(usage)
            return
        image = self._ledger.connection.execute(first_image).fetchone()
        self._watch.take(
            replace(
                usage,
                evidence_bytes=self._number(evidence),
                rows_days=max(0, newest[1] - oldest[1]) / NS_PER_DAY,
                evidence_days=0.0 if image is None else max(0, newest[1] - image[0]) / NS_PER_DAY,
                rows_hold_days=self._rows_hold_days(usage.rows_bytes, oldest, newest),
            )
        )

    def _look_at_images(self) -> None:
        """Whether the newest image is where its row says: else another program removed images. Told once."""
        query = "SELECT path FROM images WHERE deleted_wall_ns IS NULL ORDER BY seq DESC LIMIT 1"
        newest = self._ledger.connection.execute(query).fetchone()
        if newest and "images" not in self._ledger.removed and not (self._folder / newest[0]).exists():
            self._ledger.note_removed("images")

    def _rows_hold_days(self, rows_bytes: int, oldest: tuple[int, int], newest: tuple[int, int]) -> float | None:
        """How long the share of the rows lasts at the pace of the newest parts; None where there is no pace yet."""
        query = "SELECT seq, trigger_wall_ns FROM parts WHERE seq >= ? ORDER BY seq LIMIT 1"
        since = self._ledger.connection.execute(query, (newest[0] - _PACE_PARTS,)).fetchone()
        parts, lasted_ns = newest[0] - since[0], newest[1] - since[1]
        if parts <= 0 or lasted_ns <= 0:
            return None
        per_part_bytes = rows_bytes / (newest[0] - oldest[0] + 1)
        return float(self._shares.rows_bytes / per_part_bytes / (parts / lasted_ns) / NS_PER_DAY)

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
