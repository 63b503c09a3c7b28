"""The WAL of records.db: kept small by checkpoints, and whoever keeps it from that is named."""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

from inspectd.records.database import DATABASE_NAME
from inspectd.records.ledger import Ledger

PINNED_AFTER_S = 5.0
"""A reader that is there at one checkpoint and gone at the next is none to speak of."""
RETRY_S = 1.0
_LOCKS = Path("/proc/locks")
_READ_MARKS = range(123, 128)
"""The bytes of records.db-shm that a reader locks while it reads from the WAL (WAL_READ_LOCK in SQLite's wal.c)."""
log = structlog.get_logger(__name__)


class Wal:
    """Empties the WAL where it is larger than `most_bytes`, in the recorder's thread.

    SQLite cannot use its room again while any program reads at an older state of the database: it then grows with
    each row, whatever is deleted.
    """

    def __init__(self, ledger: Ledger, folder: Path, most_bytes: int) -> None:
        self._ledger = ledger
        self._most_bytes = most_bytes
        self._path = folder / f"{DATABASE_NAME}-wal"
        self._marks = folder / f"{DATABASE_NAME}-shm"
        self._next_s = 0.0
        self._since_s: float | None = None
        self.pinned_by = ""  # who keeps it large, or nobody

    @property
    def size_bytes(self) -> int:
        """How large it is now; 0 where there is none."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def step(self) -> None:
        """Empty it where it is too large, or find out who prevents that; does not wait. Raises sqlite3.Error."""
        if self.size_bytes <= self._most_bytes:
            self._free()
            return
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        if self._emptied():
            self._free()
            return
        self._next_s = now_s + RETRY_S
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s < PINNED_AFTER_S:
            return
        was, self.pinned_by = self.pinned_by, ", ".join(_readers(self._marks)) or "a program that is not to be seen"
        if not was:
            why = "another program keeps the WAL of the records from being emptied: it grows until that read ends"
            log.warning(why, program=self.pinned_by, wal_bytes=self.size_bytes)

    def _free(self) -> None:
        if self.pinned_by:
            log.info("the WAL of the records is emptied again", was_kept_by=self.pinned_by)
        self.pinned_by, self._since_s = "", None

    def _emptied(self) -> bool:
        """Whether all of it went into the database and the file was cut; waits for nobody."""
        connection = self._ledger.connection
        (patience_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
        return not busy


def _readers(marks: Path) -> list[str]:
    """The other processes that read from the WAL now, as `name (process 123)`.

    Asked of the kernel: to open and close the file here would drop SQLite's own locks on it.
    """
    try:
        inode = marks.stat().st_ino
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = set()
    for line in lines:
        words = line.split()
        if len(words) < 8 or words[1] != "POSIX" or words[5].rpartition(":")[2] != str(inode):
            continue
        process, first, last = int(words[4]), int(words[6]), words[7]
        covers = range(first, _READ_MARKS.stop if last == "EOF" else int(last) + 1)
        if process != os.getpid() and max(covers.start, _READ_MARKS.start) < min(covers.stop, _READ_MARKS.stop):
            found.add(process)
    return [f"{_name(process)} (process {process})" for process in sorted(found)]


def _name(process: int) -> str:
    """What a process is called, as far as this one may see it."""
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a program"
