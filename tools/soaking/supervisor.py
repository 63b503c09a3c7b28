"""systemd's part in a soak run: starts the daemon, waits for READY, watches the watchdog, restarts what has ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO

from benchmarking.daemon import BenchmarkError

READY_WITHIN_S = 120.0
UNIT_NICENESS = -10
"""`Nice=` of systemd/inspectd@.service."""
ENDS_WITHIN_S = 60.0
WATCHDOG_S = 5.0
RESTARTS_AT_MOST = 5
"""Ends in a row without a verdict in between, after which a soak run gives up; the unit never does."""
REMEMBERED_LINES = 200
NOTICE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ended:
    """How one life of the daemon ended.

    code: exit code, negative for a signal. asked: whether the soak run wanted it. triggers: by the daemon's own last
    word, None where it had none.
    """

    code: int
    asked: bool
    triggers: int | None
    deadlines_missed: int


class Supervisor:
    """One daemon at a time, with the notifications that systemd would get; used by one thread."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """command: what to run. folder: for the notification socket. environment: of the daemon, beside systemd's."""
        self._command = [*_as_the_unit_runs_it(), *command]
        self._folder, self._environment = folder, dict(environment)
        self._address = folder / "notify"
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(self._address))
        self._notices.setblocking(False)
        self._process: subprocess.Popen[str] | None = None
        self._reader: Thread | None = None
        self._lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._fed_s = 0.0
        self.watchdog_fired = 0

    @property
    def pid(self) -> int:
        """The daemon's process. Raises BenchmarkError where none runs."""
        if self._process is None:
            raise BenchmarkError("no daemon runs")
        return self._process.pid

    def start(self) -> None:
        """Start a daemon and block until it is READY. Raises BenchmarkError with its last line where it is not."""
        self._lines.clear()
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            self._command,
            env={
                **self._environment,
                "NOTIFY_SOCKET": str(self._address),
                "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = Thread(target=_keep_last, args=(self._process.stderr, self._lines), daemon=True)
        self._reader.start()
        give_up_s = time.monotonic() + READY_WITHIN_S
        while not any("READY=1" in notice for notice in self._heard()):
            if self._process.poll() is not None:
                raise BenchmarkError(f"the daemon ended with code {self._process.returncode}: {self.last_line()}")
            if time.monotonic() > give_up_s:
                raise BenchmarkError(f"the daemon was not ready within {READY_WITHIN_S:g} s: {self.last_line()}")
            time.sleep(0.05)
        self._fed_s = time.monotonic()

    def watch(self) -> Ended | None:
        """Feed on its notices; kill it where the watchdog starves, as systemd does. How it ended, where it has."""
        if any("WATCHDOG=1" in notice for notice in self._heard()):
            self._fed_s = time.monotonic()
        if self._process is None:
            return None
        if self._process.poll() is None and time.monotonic() - self._fed_s > WATCHDOG_S:
            self.watchdog_fired += 1
            self._process.send_signal(signal.SIGABRT)
            self._process.wait(ENDS_WITHIN_S)
        return None if self._process.poll() is None else self._ended(asked=False)

    def end(self, number: signal.Signals) -> Ended:
        """Send a signal that ends it, and wait. Raises BenchmarkError where it does not end."""
        if self._process is None:
            raise BenchmarkError("no daemon runs")
        self._process.send_signal(number)
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"the daemon did not end within {ENDS_WITHIN_S:g} s of {number.name}") from error
        return self._ended(asked=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal that it lives on with."""
        os.kill(self.pid, number)

    def last_line(self) -> str:
        """The newest line of its log."""
        return self._lines[-1].strip() if self._lines else "it said nothing"

    def close(self) -> None:
        """Kill what still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()
        self._notices.close()

    def _heard(self) -> list[str]:
        notices = []
        with suppress(BlockingIOError):
            while True:
                notices.append(self._notices.recv(NOTICE_BYTES).decode(errors="replace"))
        return notices

    def _ended(self, *, asked: bool) -> Ended:
        if self._process is None or self._reader is None:
            raise BenchmarkError("no daemon runs")
        self._reader.join()  # the pipe ends with the process
        code, self._process = self._process.returncode, None
        counts = _last_counts(self._lines)
        if counts is None:
            return Ended(code, asked, None, 0)
        return Ended(code, asked, counts.get("triggers", 0), counts.get("deadlines_missed", 0))


def _keep_last(stream: IO[str] | None, lines: deque[str]) -> None:
    """Read a log to its end; only the newest lines are kept, so that no disk fills up."""
    if stream is not None:
        with stream:
            lines.extend(stream)


def _last_counts(lines: deque[str]) -> dict[str, int] | None:
    """What the daemon counted, from the line that it says goodbye with; None where it could not."""
    for line in reversed(lines):
        if line.startswith("{"):
            with suppress(ValueError):
                said = json.loads(line)
                if said.get("event") == "stopped":
                    return dict(said["counts"])
    return None


def _as_the_unit_runs_it() -> list[str]:
    """What puts the daemon at the unit's priority; nothing where this user may not raise it."""
    raise_it = ["nice", "-n", str(UNIT_NICENESS)]
    may = subprocess.run([*raise_it, "true"], stderr=subprocess.PIPE, check=False)  # noqa: S603 - a fixed command
    return [] if may.stderr else raise_it
