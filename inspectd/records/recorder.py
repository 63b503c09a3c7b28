"""The stage that remembers: one row per part, committed in batches, off the verdict path."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event

import structlog

from inspectd.errors import StorageError
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.messages import Command, LateScores, Outcome, Record, StoredImage, ToldReject, Verdict
from inspectd.records.chain import Kind
from inspectd.records.database import is_damage, remedy
from inspectd.records.ledger import Ledger, Note, Row
from inspectd.records.numbers import Numbers
from inspectd.records.retention import Retention
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive

BATCH_MS = 50
"""Rows are committed together that come within this time of the first: each commit takes the interpreter and a core
from the parts of that moment. Until then the journal holds them, and a kill loses none."""
LARGEST_BATCH = 512
IDLE_MS = 100
RETRY_S = 1.0
MOST_UNWRITTEN = 20_000
GIVEN_UP = "announced, and given up: the disk refused the records for too long"
_REMOVED = (
    "removed by another program while the daemon runs: find out by which; `inspectd records verify` tells what lacks"
)
_KEPT = "the earlier ones are in the file damaged-... beside them: keep it, look at the disk"
log = structlog.get_logger(__name__)


class Recorder:
    """Inbox -> database. What the disk refuses is kept in memory and tried again each second, up to 20 000 rows.

    settle: told the numbers whose rows need no journal any more. prepare: moves the reserves of sequence numbers and
    journal on (it blocks for the disk, so it is done here). watch: sees each record before it is written; notes to be
    written after it.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        inbox: Socket,
        retention: Retention,
        settle: Callable[[list[int]], None],
        prepare: Callable[[], None],
        meters: Meters,
        watch: Callable[[Record], Sequence[Note]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._inbox = inbox
        self._retention = retention
        self._settle, self._prepare = settle, prepare
        self._meters = meters
        self._watch = watch
        self._unwritten: list[Row] = []
        self._given_up = Numbers()
        self._retry_s = 0.0
        self._broken = False
        self._told = ""

    def run(self, stop: Event) -> None:
        """Record until `stop` is set and the inbox is empty; then write what is left, once more."""
        while not (stop.is_set() and not self._inbox.poll(0)):
            self._meters.beat(Stage.RECORD)
            if self._inbox.poll(IDLE_MS):
                self._gather()
            self.step()
        self._retry_s = 0.0
        self.step()
        if self._unwritten:
            self._meters.count(Count.ROWS_LOST, len(_numbers(self._unwritten)))
            log.error("records lost: the disk refused them to the end", rows=len(self._unwritten))

    def step(self) -> None:
        """Write what waits, then keep house."""
        if time.monotonic() < self._retry_s:
            self._limit()
            return
        try:
            self.write()
            self._ledger.sync()
            self._prepare()
            self._retention.step()
        except (sqlite3.Error, OSError, StorageError) as error:
            self._refused(error)
            return
        standing = self._standing()
        if self._broken or self._told != standing:
            if self._broken:
                log.info("records are written again")
                self._meters.rows_refused = False
            self._broken, self._told = False, standing
            self._meters.set_storage_fault(Stage.RECORD, self._told)

    def _standing(self) -> str:
        """What a person must know of the records until the next start, though they are written now."""
        damaged = f"records were damaged and begun anew; {_KEPT}" if self._ledger.begun_anew else ""
        removed = f"{self._ledger.removed}: {_REMOVED}" if self._ledger.removed else ""
        return "; ".join(filter(None, (damaged, removed)))

    def write(self) -> None:
        """Commit the waiting rows in one transaction. Raises sqlite3.Error, after which they still wait."""
        given_up = [Note(Kind.GAP, first, last, GIVEN_UP) for first, last in self._given_up.ranges()]
        rows = [*given_up, *self._unwritten]
        if not rows:
            return
        begun_ns = time.monotonic_ns()
        refused = self._ledger.write(rows)
        self._meters.observe(Step.COMMIT, time.monotonic_ns() - begun_ns)
        numbers = _numbers(rows)
        self._settle(numbers)
        self._meters.count(Count.ROWS, len(numbers) - refused.parts)
        self._meters.count(Count.ROWS_LOST, len(refused.existing) + len(refused.unstorable))
        if refused.existing:
            log.error("records with these numbers exist already; the older ones are kept", seqs=refused.existing[:10])
        self._unwritten.clear()
        self._given_up = Numbers()
        self._meters.set_unwritten(0)

    def _gather(self) -> None:
        """Take what comes within a few milliseconds of the first row."""
        end_ns = time.monotonic_ns() + BATCH_MS * 1_000_000
        taken = 0
        while taken < LARGEST_BATCH:
            try:
                row = receive(self._inbox)
            except WireError as error:
                self._meters.count(Count.STAGE_ERRORS)
                log.error("a record could not be read", why=str(error))
                continue
            if isinstance(row, Record | LateScores | StoredImage | ToldReject):
                taken += 1
                self._unwritten.append(row)
                _log(row)
                if isinstance(row, Record) and self._watch is not None:
                    self._unwritten.extend(self._watch(row))
            elif (left_ns := end_ns - time.monotonic_ns()) <= 0 or not self._inbox.poll(max(1, left_ns // 1_000_000)):
                return

    def _refused(self, error: Exception) -> None:
        self._meters.count(Count.STORAGE_FAULTS)
        self._meters.set_unwritten(len(self._unwritten))
        self._retry_s = time.monotonic() + RETRY_S
        self._meters.rows_refused = True
        if not self._broken:
            self._broken = True
            self._meters.set_storage_fault(Stage.RECORD, f"records cannot be written: {error}")
            why = f"{error}; {remedy(error)}"
            log.error("records cannot be written; verdicts go on, rows wait in memory", why=why)
        if is_damage(error):
            self._mend(error)
        self._limit()

    def _mend(self, error: Exception) -> None:
        """The database is damaged: another begins."""
        try:
            self._ledger.mend(error)
            self._retry_s = 0.0
        except (sqlite3.Error, OSError, StorageError) as failure:
            log.error("records cannot be begun anew", why=str(failure))

    def _limit(self) -> None:
        """Memory is not endless either: beyond the limit the oldest rows are given up, and counted."""
        lost = len(self._unwritten) - MOST_UNWRITTEN
        if lost > 0:
            given_up = self._unwritten[:lost]
            del self._unwritten[:lost]
            numbers = _numbers(given_up)
            for seq in numbers:
                self._given_up.add(seq, seq)
            self._settle(numbers)
            images = [row for row in given_up if isinstance(row, StoredImage)]
            with suppress(OSError):  # the next start finds what cannot be deleted now
                self._retention.discard(images)
            self._meters.count(Count.ROWS_LOST, len(numbers))
            self._meters.count(Count.IMAGES_DROPPED, len(images))
        self._meters.set_unwritten(len(self._unwritten))


def _numbers(rows: list[Row]) -> list[int]:
    """The numbers of the parts among the rows."""
    return [row.verdict.seq for row in rows if isinstance(row, Record)]


def _log(row: Row) -> None:
    """One line for each part that did not pass, and one more where its reject could not reach it."""
    if isinstance(row, Record) and row.verdict.outcome is not Outcome.PASS:
        verdict = row.verdict
        log.info(
            verdict.outcome.value,
            seq=verdict.seq,
            part_id=verdict.part_id,
            reason=verdict.reason.value,
            detail=verdict.detail,
            latency_ms=round((verdict.verdict_ns - verdict.trigger_ns) / 1e6, 3),
            source=row.source,
        )
    told = row.verdict if isinstance(row, Record) else row
    if isinstance(told, Verdict | ToldReject) and told.reject is not None and told.reject.command is Command.MISSED:
        log.error("reject missed: the part goes on", seq=told.seq, part_id=told.part_id, why=told.reject.detail)
