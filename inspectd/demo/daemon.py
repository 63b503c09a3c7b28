"""Run `inspectd run` as a process of its own, as systemd would, and follow its verdicts."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from inspectd.config import Station
from inspectd.errors import InspectdError
from inspectd.terminal import PlainConsole, description
from inspectd.wire.public import Json, from_bytes, result_topic
from inspectd.wire.sockets import Context

POLL_MS = 200
ENDS_S = 30.0


class DaemonFailed(InspectdError):
    """The daemon's process ended with an error; the exit code is the daemon's own."""

    def __init__(self, exit_code: int, log: Path) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        super().__init__(f"the daemon ended with code {exit_code}: {lines[-1] if lines else 'it said nothing'} ({log})")
        self.exit_code = exit_code


class Daemon:
    """A daemon of the station in a process of its own, from entering until leaving; leaving it early stops it.

    settings: the station's file. parts: it ends by itself after so many; None: when it is stopped. log: what it says.
    """

    def __init__(self, settings: Path, station: Station, log: Path, parts: int | None = None) -> None:
        self._command = [sys.executable, "-m", "inspectd", "run", "--station", str(settings)]
        if parts is not None:
            self._command += ["--max-parts", str(parts)]
        self._station, self._log = station, log

    def __enter__(self) -> Self:
        with self._log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)  # noqa: S603 - our own program
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(ENDS_S)

    def results(self) -> Iterator[Json]:
        """Results from now on, as they are announced, until the process has ended. Raises DaemonFailed at the end."""
        context: Context = zmq.Context()
        try:
            with context.socket(zmq.SUB) as socket:
                socket.setsockopt(zmq.SUBSCRIBE, result_topic(self._station.station))
                socket.connect(self._station.outputs.results)
                while self._process.poll() is None:
                    if socket.poll(POLL_MS):
                        _topic, message = socket.recv_multipart()
                        yield from_bytes(message, "inspectd.result")
        finally:
            context.destroy(linger=0)
        self._end()

    def exchange(self) -> None:
        """Have it take the bundle that is active now, between two parts."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it as systemd would. Raises DaemonFailed."""
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        if exit_code := self._process.wait(ENDS_S):
            raise DaemonFailed(exit_code, self._log)


def run_daemon(settings: Path, station: Station, parts: int, log: Path, what: str) -> None:
    """Inspect `parts` parts with a daemon of the station; blocks until it has ended. Raises DaemonFailed.

    what: the word before the bar.
    """
    columns = (description(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Daemon(settings, station, log, parts) as daemon,
        Progress(*columns, console=PlainConsole(stderr=True)) as progress,
    ):
        bar = progress.add_task(what, total=parts)
        for result in daemon.results():
            progress.update(bar, completed=min(int(result["seq"]), parts))
        progress.update(bar, completed=parts)
