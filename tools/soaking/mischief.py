"""The hands of a soak run: does to the daemon, its database, its subscribers and its bundle what the plan says."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import zmq
from benchmarking.daemon import Bench
from faulting.board import Injection
from faulting.control import Control

from engines.artifact import Bundle, activate
from inspectd.records.database import DATABASE_NAME
from inspectd.wire.public import result_topic
from soaking.faults import Mishap, Outside

LOCK_TIMEOUT_S = 5.0


class Mischief:
    """Used by one thread. bundles: two below one root, active in turn; SIGHUP makes the daemon take the active one."""

    def __init__(self, bench: Bench, control: str, root: Path, bundles: tuple[Bundle, Bundle]) -> None:
        self._bench, self._control = bench, control
        self._root, self._bundles = root, bundles
        self._swaps = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._stalled: zmq.Socket[bytes] | None = None
        self._lock: sqlite3.Connection | None = None
        self._until_s = 0.0

    def do(self, mishap: Mishap) -> signal.Signals | None:
        """Let it happen; returns the signal that the daemon is to get, where that is the mishap or a part of it."""
        self._over()
        self._until_s = time.monotonic() + mishap.lasts_s
        if isinstance(mishap.what, Injection):
            with closing(Control(self._control)) as control:
                control.arm(mishap.what)
        elif mishap.what is Outside.SIGTERM:
            return signal.SIGTERM
        elif mishap.what is Outside.SIGKILL:
            return signal.SIGKILL
        elif mishap.what is Outside.SUBSCRIBER_STALLED:
            self._stalled = self._context.socket(zmq.SUB)
            self._stalled.rcvhwm = 1
            self._stalled.subscribe(result_topic(self._bench.station))
            self._stalled.connect(self._bench.results)
        elif mishap.what is Outside.DATABASE_LOCKED:
            self._lock_database()
        elif mishap.what is Outside.BUNDLE_SWAP:
            self._swap()
            return signal.SIGHUP
        return None

    def turn(self) -> None:
        """End what has lasted long enough."""
        if time.monotonic() >= self._until_s:
            self._over()

    def close(self) -> None:
        """End everything; a second call does nothing."""
        self._over()
        self._context.term()

    def _over(self) -> None:
        if self._stalled is not None:
            self._stalled.close(linger=0)
            self._stalled = None
        if self._lock is not None:
            self._lock.rollback()
            self._lock.close()
            self._lock = None

    def _lock_database(self) -> None:
        """Hold the write lock, as a tool that never commits does; none where the daemon does not let go of it."""
        lock = sqlite3.connect(self._bench.records / DATABASE_NAME, isolation_level=None, timeout=LOCK_TIMEOUT_S)
        with suppress(sqlite3.OperationalError):
            lock.execute("BEGIN IMMEDIATE")
        self._lock = lock

    def _swap(self) -> None:
        """Activate the other bundle."""
        self._swaps += 1
        activate(self._root, self._bench.station, self._bundles[self._swaps % 2].hash)
