"""The stage that remembers: one row per part, committed in batches, off the verdict path."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from threading import Event

import structlog

from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.messages import LateScores, Outcome, Record, StoredImage
from inspectd.records.database import COLUMNS, scores_to_json, to_row
from inspectd.records.retention import Retention
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive

BATCH_MS = 10
LARGEST_BATCH = 512
IDLE_MS = 100
RETRY_S = 1.0
MOST_UNWRITTEN = 20_000
_INSERT = f"INSERT OR IGNORE INTO parts ({COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS.split(',')))})"  # noqa: S608
_LATE = "UPDATE parts SET late_part_score = ?, late_region_scores = ?, late_scored_ns = ? WHERE seq = ?"
_IMAGE = "INSERT OR REPLACE INTO images (seq, path, size_bytes) VALUES (?, ?, ?)"
log = structlog.get_logger(__name__)

Row = Record | LateScores | StoredImage


class Recorder:
    """Inbox -> database. What the disk refuses is kept in memory and tried again each second, up to 20 000 rows.

    reserve: moves the sequence numbers' reserve on (it blocks for the disk, so it is done here).
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        inbox: Socket,
        retention: Retention,
        reserve: Callable[[], None],
        meters: Meters,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._retention = retention
        self._reserve = reserve
        self._meters = meters
        self._unwritten: list[Row] = []
        self._retry_s = 0.0
        self._broken = False

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
            self._meters.count(Count.ROWS_LOST, len(self._unwritten))
            log.error("records lost: the disk refused them to the end", rows=len(self._unwritten))

    def step(self) -> None:
        """Write what waits, then keep house."""
        if time.monotonic() < self._retry_s:
            self._limit()
            return
        try:
            self.write()
            self._reserve()
            self._retention.step()
        except (sqlite3.Error, OSError) as error:
            self._refused(error)
            return
        if self._broken:
            self._broken = False
            self._meters.set_storage_fault(Stage.RECORD, "")
            log.info("records are written again")

    def write(self) -> None:
        """Commit the waiting rows in one transaction. Raises sqlite3.Error, after which they still wait."""
        if not self._unwritten:
            return
        begun_ns = time.monotonic_ns()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for row in self._unwritten:
                self._execute(row)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._meters.observe(Step.COMMIT, time.monotonic_ns() - begun_ns)
        self._meters.count(Count.ROWS, sum(isinstance(row, Record) for row in self._unwritten))
        self._unwritten.clear()
        self._meters.set_unwritten(0)

    def _execute(self, row: Row) -> None:
        if isinstance(row, Record):
            if self._connection.execute(_INSERT, to_row(row)).rowcount != 1:
                self._meters.count(Count.ROWS_LOST)
                log.error("a record with this number exists already; the older one is kept", seq=row.verdict.seq)
        elif isinstance(row, LateScores):
            scores = scores_to_json(row.region_scores)
            self._connection.execute(_LATE, (row.part_score, scores, row.scored_ns, row.seq))
        else:
            self._connection.execute(_IMAGE, (row.seq, row.path, row.size_bytes))

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
            if isinstance(row, Record | LateScores | StoredImage):
                taken += 1
                self._unwritten.append(row)
                _log(row)
            elif (left_ns := end_ns - time.monotonic_ns()) <= 0 or not self._inbox.poll(max(1, left_ns // 1_000_000)):
                return

    def _refused(self, error: Exception) -> None:
        self._meters.count(Count.STORAGE_FAULTS)
        self._meters.set_unwritten(len(self._unwritten))
        self._retry_s = time.monotonic() + RETRY_S
        if not self._broken:
            self._broken = True
            self._meters.set_storage_fault(Stage.RECORD, f"records cannot be written: {error}")
            log.error("records cannot be written; verdicts go on, rows wait in memory: free space", why=str(error))
        self._limit()

    def _limit(self) -> None:
        """Memory is not endless either: beyond the limit the oldest rows are given up, and counted."""
        lost = len(self._unwritten) - MOST_UNWRITTEN
        if lost > 0:
            del self._unwritten[:lost]
            self._meters.count(Count.ROWS_LOST, lost)
        self._meters.set_unwritten(len(self._unwritten))


def _log(row: Row) -> None:
    """One line for each part that did not pass."""
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
