"""The database as the recorder writes it: batches with their chain of hashes, synced within a stated time, mended."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from inspectd.errors import StorageError
from inspectd.messages import LateScores, Record, StoredImage, ToldReject
from inspectd.records.chain import Kind, Tail, anchor
from inspectd.records.database import DATABASE_NAME, DamagedError, last_seq, open_for_writing
from inspectd.records.numbers import Numbers
from inspectd.records.rows import content, storable
from inspectd.records.tables import COLUMNS, NOTE_COLUMNS, TABLE

_INSERT = {
    kind: f"INSERT OR IGNORE INTO {TABLE[kind]} ({columns}) VALUES (:{columns.replace(', ', ', :')})"  # noqa: S608
    for kind, columns in COLUMNS.items()
}
_UNSTORABLE = (ValueError, TypeError, OverflowError, sqlite3.ProgrammingError)
"""What is raised for the values of one row: text that cannot be encoded, a number too large, a type SQLite has not."""
MEND_PAUSE_S = 60.0
LOOK_EVERY_S = 1.0
LOOK_BACK = 1 << 17  # how many numbers a start looks through for gaps
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    """What happened to the numbers first..last (START: `first` is the run's first one; `last` is the same)."""

    kind: Kind
    first: int
    last: int
    detail: str


Row = Record | LateScores | StoredImage | ToldReject | Note


@dataclass(slots=True)
class Refused:
    """The numbers of rows that were not written, while the others were; `parts` of them are rows of parts.

    existing: they stand there already, and are kept as they were. unstorable: of values that SQLite does not take; for
    a part, a gap says why.
    """

    existing: list[int] = field(default_factory=list)
    unstorable: list[int] = field(default_factory=list)
    parts: int = 0


def earlier_records(kept_as: str) -> str:
    """Why numbers are missing from a database that was begun anew."""
    return f"earlier records lie in {kept_as}, which was damaged"


class Ledger:
    """records.db of one station, for the one thread that writes at a time."""

    def __init__(self, folder: Path, *, sync_s: float = 1.0, set_aside: bool = True) -> None:
        """Open or create it; a damaged one is moved aside, or refused without `set_aside`. Raises StorageError."""
        self._folder = folder
        self._path = folder / DATABASE_NAME
        self._sync_s = sync_s
        self._may_set_aside = set_aside
        self._unsynced_s: float | None = None  # since when something written is not synced
        self.begun_anew = ""  # the name that the damaged database now has
        self.removed = ""  # what other programs took away while this one runs
        self._look_s = 0.0
        self._mended_s = -MEND_PAUSE_S
        self._unexplained = ""  # why this database lacks what was recorded before it
        self._connection: sqlite3.Connection | None = None  # None: let go of, to be opened again
        try:
            self._connection = open_for_writing(folder)
        except DamagedError as error:
            self._set_aside(error)
        self._inode = self._inodes()

    @property
    def connection(self) -> sqlite3.Connection:
        """The open database; opened again where that failed before. Raises sqlite3.Error where it fails once more."""
        if self._connection is None:
            try:
                return self._open_again()
            except (OSError, StorageError) as error:
                raise sqlite3.OperationalError(str(error)) from error
        return self._connection

    def write(self, rows: Sequence[Row]) -> Refused:
        """Commit rows and their hashes in one transaction; returns what was not written, each for its own reason.

        Raises sqlite3.Error, after which nothing of them is written.
        """
        refused = Refused()
        with self.transaction():
            tail = Tail(self.connection)
            seqs = [row.verdict.seq for row in rows if isinstance(row, Record)]
            if self._unexplained and seqs:
                for first, last in self.missing(min(seqs)):
                    self._note(tail, Note(Kind.GAP, first, last, self._unexplained))
            for row in rows:
                if isinstance(row, Note):
                    self._note(tail, row)
                else:
                    self._insert(tail, row, refused)
        if seqs:
            self._unexplained = ""
        if self._unsynced_s is None:
            self._unsynced_s = time.monotonic()
        return refused

    def explain_gaps(self, before: int, detail: str) -> None:
        """Note every range below `before` that has no record, and why. Raises sqlite3.Error."""
        gaps = self.missing(before)
        if gaps:
            self.write([Note(Kind.GAP, first, last, detail) for first, last in gaps])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Raises sqlite3.Error."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def sync(self, *, now: bool = False) -> None:
        """Make what is committed safe against a power cut, where it has waited for `sync_s`; blocks for the disk.

        Also finds files that were deleted or replaced behind our back, each second even where nothing is written, and
        opens them anew. Raises OSError, sqlite3.Error, StorageError.
        """
        now_s = time.monotonic()
        due = self._unsynced_s is not None and (now or now_s - self._unsynced_s >= self._sync_s)
        if not due and now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_EVERY_S
        if self._connection is None:
            self._open_again()
        elif self._inodes() != self._inode:
            self._taken_away()
        if not due:
            return
        file = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)
        self._unsynced_s = None

    def note_removed(self, what: str) -> None:
        """Say that other programs took files away, or replaced them; it stands until the next start."""
        log.error("records were removed by another program, deleted or replaced: made anew", files=what)
        names = self.removed.split(", ") if self.removed else []
        self.removed = ", ".join(dict.fromkeys([*names, *what.split(", ")]))

    def mend(self, error: Exception) -> None:
        """After SQLite called the file damaged: set it aside and begin anew, at most once a minute.

        Raises `error` where that is not to be done (again), OSError or StorageError where it fails.
        """
        if not self._may_set_aside or time.monotonic() - self._mended_s < MEND_PAUSE_S:
            raise error  # a disk that damages each new file must not be filled with them
        self._mended_s = time.monotonic()
        self._let_go()
        self._set_aside(error)
        self._inode = self._inodes()

    def missing(self, before: int) -> list[tuple[int, int]]:
        """The ranges of numbers below `before` that have neither a record nor an explanation. Raises sqlite3.Error."""
        first = max(anchor(self.connection).max_seq + 1, before - LOOK_BACK)
        numbers = Numbers()
        for (seq,) in self.connection.execute("SELECT seq FROM parts WHERE seq >= ? ORDER BY seq", (first,)):
            numbers.add(seq, seq)
        gaps = "SELECT first_seq, last_seq FROM events WHERE kind = 'gap' AND last_seq >= ?"
        for gap in self.connection.execute(gaps, (first,)):
            numbers.add(*gap)
        return numbers.missing(first, before - 1)

    def last_seq(self) -> int:
        """The largest recorded number, 0 where there is none. Raises sqlite3.Error."""
        return last_seq(self.connection)

    def close(self) -> None:
        """Sync and close; a second call does nothing. What cannot be synced any more is left to the kernel."""
        with suppress(OSError, sqlite3.Error, StorageError):
            self.sync(now=True)
        if self._connection is not None:
            self._connection.close()

    def _note(self, tail: Tail, note: Note) -> None:
        values = (note.first, note.last, time.time_ns(), storable(note.detail))
        tail.append(note.kind, note.first, dict(zip(NOTE_COLUMNS.split(", "), values, strict=True)))
        self.connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", (tail.entry, note.kind.value, *values))

    def _insert(self, tail: Tail, row: Record | LateScores | StoredImage | ToldReject, refused: Refused) -> None:
        """Insert one row and its entry, or note why not: no row may keep the others out."""
        seq = row.verdict.seq if isinstance(row, Record) else row.seq
        try:
            kind, values = content(row)
            inserted = self.connection.execute(_INSERT[kind], values).rowcount == 1
        except _UNSTORABLE as error:
            log.error("a row cannot be stored, the others are", seq=seq, row=type(row).__name__, why=str(error))
            refused.unstorable.append(seq)
            refused.parts += isinstance(row, Record)
            if isinstance(row, Record):
                self._note(tail, Note(Kind.GAP, seq, seq, f"announced, and cannot be stored: {error}"))
            return
        if inserted:
            tail.append(kind, seq, values)
            return
        refused.existing.append(seq)
        refused.parts += isinstance(row, Record)

    def _set_aside(self, error: Exception) -> None:
        """Move the damaged files away, under a name that says when, and begin anew. Raises StorageError."""
        if not self._may_set_aside:
            raise error
        stem = f"damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{time.time_ns() % 10**9:09d}Z-{DATABASE_NAME}"
        for suffix in ("-shm", "-wal", ""):  # the database last: were this cut short, the start finds it damaged again
            source = self._path.with_name(DATABASE_NAME + suffix)
            with suppress(FileNotFoundError):
                source.rename(self._path.with_name(stem + suffix))
        log.error("the records are damaged: set aside, and begun anew", kept_as=stem, why=str(error))
        self.begun_anew, self._unexplained = stem, earlier_records(stem)
        self._connection = open_for_writing(self._folder)

    def _taken_away(self) -> None:
        """Somebody removed records.db or its WAL while it was open: save what we hold, then open what is there."""
        self.note_removed(DATABASE_NAME)
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._let_go()
        self._open_again()

    def _let_go(self) -> None:
        """Close before another is opened: SQLite deletes a WAL by its name."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open_again(self) -> sqlite3.Connection:
        """Open what is there, after we let go of it. Raises OSError, StorageError."""
        try:
            self._connection = open_for_writing(self._folder)
            self._inode = self._inodes()
        except DamagedError as error:
            self.mend(error)
        connection = self.connection
        empty = not anchor(connection).entry and not connection.execute("SELECT 1 FROM chain").fetchone()
        if empty and not self._unexplained:
            self._unexplained = "the database with earlier records was deleted while the daemon ran"
        return connection

    def _inodes(self) -> tuple[int, int]:
        """Which files we hold; 0 for one that is not there."""
        found = []
        for path in (self._path, self._path.with_name(DATABASE_NAME + "-wal")):
            try:
                found.append(path.stat().st_ino)
            except FileNotFoundError:
                found.append(0)
        return found[0], found[1]
