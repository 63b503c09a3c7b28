"""A recorder and what feeds it, in one thread, on real files. Not a test module."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import zmq

from inspectd.health.meters import Meters
from inspectd.health.storage_watch import Shares, StorageWatch
from inspectd.messages import LateScores, Record, StoredImage, ToldReject
from inspectd.records.ledger import Ledger
from inspectd.records.recorder import Recorder
from inspectd.records.retention import Retention
from inspectd.sections import RecordSettings
from inspectd.wire.sockets import pull, push, send

Context = zmq.Context[zmq.Socket[bytes]]


class Desk:
    """Takes rows as the gate sends them, and writes them when told."""

    def __init__(self, context: Context, folder: Path, *, keep_days: float = 36_500, keep_bytes: int = 2**30) -> None:
        self.folder = folder
        self.meters = Meters()
        self.ledger = Ledger(folder)
        self.inbox = pull(context, "inproc://rows")
        self.rows = push(context, "inproc://rows", 100_000)
        self.keep_days = keep_days
        settings = RecordSettings(keep_days=keep_days, keep_bytes=keep_bytes)
        self.storage = StorageWatch(settings, self.meters.registry)
        self.retention = self.make_retention(keep_bytes)
        self.settled: list[int] = []
        self.recorder = Recorder(
            self.ledger,
            inbox=self.inbox,
            retention=self.retention,
            settle=self.settled.extend,
            prepare=lambda: None,
            meters=self.meters,
        )

    def make_retention(self, keep_bytes: int) -> Retention:
        """A retention on this ledger, as a start makes it."""
        return Retention(
            self.ledger,
            self.folder,
            keep_days=self.keep_days,
            shares=Shares.of(keep_bytes, RecordSettings().rows_share),
            watch=self.storage,
        )

    @property
    def connection(self) -> sqlite3.Connection:
        """The database as it is written now."""
        return self.ledger.connection

    def record(self, *rows: Record | LateScores | StoredImage | ToldReject) -> None:
        """Send rows, and let the recorder take and write them."""
        for row in rows:
            assert send(self.rows, row)
        self.recorder._gather()
        self.recorder.step()

    def retry(self) -> None:
        """Let the recorder try again now, not in a second."""
        self.recorder._retry_s = 0.0
        self.recorder.step()

    def close(self) -> None:
        """Let go of everything."""
        self.rows.close()
        self.inbox.close()
        self.ledger.close()
