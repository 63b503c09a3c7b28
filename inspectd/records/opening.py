"""How a daemon takes over a station's records: lock, mend, replay the journal, explain gaps, then go on numbering."""

from __future__ import annotations

import platform
import sqlite3
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import structlog

from inspectd.errors import StorageError
from inspectd.records.chain import Kind
from inspectd.records.database import DATABASE_NAME, remedy
from inspectd.records.journal import Journal, replay
from inspectd.records.ledger import LOOK_EVERY_S, Ledger, Note, earlier_records
from inspectd.records.run_id import known_run, restore_run, run_id
from inspectd.records.sequence import Sequence

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
log = structlog.get_logger(__name__)


class Records:
    """One station's records below `folder`, held by one daemon: the ledger, the sequence numbers and the journal."""

    def __init__(self, folder: Path, *, sync_s: float, set_aside: bool) -> None:
        """Open or create them below `folder`. Blocks for the disk.

        Every row of an earlier run that was journalled is in the database then, and every number without a record is
        noted as a gap. Raises StorageError: no permission, a full disk, another daemon, or damage that is not to be
        set aside.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be opened: {error.strerror}") from error
        with ExitStack() as stack:
            self.sequence = Sequence(folder)
            stack.callback(self.sequence.close)
            self.ledger = Ledger(folder, sync_s=sync_s, set_aside=set_aside)
            stack.callback(self.ledger.close)
            try:
                self._catch_up(folder)
                self.run = run_id(folder, anew=self.sequence.upcoming == 1)
                self._run_is_stored = known_run(folder) == self.run
                self.journal = Journal(folder)
            except (sqlite3.Error, OSError) as error:
                raise StorageError(f"{folder / DATABASE_NAME}: {error}; {remedy(error)}") from error
            stack.pop_all()
        self._look_s = 0.0
        self.journal.prepare()

    def close(self) -> None:
        """Note the clean stop, then close database and journal; once, after `sequence`, which is closed on its own."""
        upcoming = self.sequence.upcoming
        try:
            self.ledger.write([Note(Kind.STOP, upcoming, upcoming, "")])
        except sqlite3.Error as error:
            log.error("the clean stop could not be recorded", why=str(error))
        self.ledger.close()
        self.journal.close()

    def prepare(self) -> None:
        """Move the reserves of numbers and of the journal on, and once a second make anew what other programs removed.

        Blocks for the disk. Raises OSError.
        """
        if time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + LOOK_EVERY_S
            self._restore()
        self.sequence.reserve()
        self.journal.prepare()

    def _restore(self) -> None:
        """Numbers first: none may come twice, whatever else goes wrong."""
        gone = ["sequence"] if self.sequence.restore() else []
        gone += ["journal"] if self.journal.restore() else []
        gone += ["run"] if self._run_is_stored and restore_run(self.folder, self.run) else []
        if gone:
            self.ledger.note_removed(", ".join(gone))

    def _catch_up(self, folder: Path) -> None:
        left = replay(folder)
        refused = self.ledger.write(left)
        new = len(left) - len(refused.existing) - len(refused.unstorable)
        if new:
            log.warning("records of an earlier run were found in the journal", parts=new)
        self.sequence.go_on_after(self.ledger.last_seq())
        upcoming = self.sequence.upcoming
        if self.ledger.begun_anew:
            why = earlier_records(self.ledger.begun_anew)
        else:
            why = "given out by a run that was killed, or whose records the disk refused; not in the journal either"
        self.ledger.explain_gaps(upcoming, why)
        detail = f"inspectd {version('inspectd')} on {platform.node()}, boot {_boot_id()}"
        self.ledger.write([Note(Kind.START, upcoming, upcoming, detail)])
        self.ledger.sync(now=True)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
