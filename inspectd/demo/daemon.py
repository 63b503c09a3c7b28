"""Run `inspectd run` as a process of its own, as systemd would, and follow its verdicts to show progress."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import zmq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from inspectd.config import Station
from inspectd.errors import InspectdError
from inspectd.wire.public import from_bytes, result_topic
from inspectd.wire.sockets import Context

POLL_MS = 200
ENDS_S = 30.0


class DaemonFailed(InspectdError):
    """The daemon's process ended with an error; the exit code is the daemon's own."""

    def __init__(self, exit_code: int, log: Path) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        super().__init__(f"the daemon ended with code {exit_code}: {lines[-1] if lines else 'it said nothing'} ({log})")
        self.exit_code = exit_code


def run_daemon(settings: Path, station: Station, parts: int, log: Path) -> None:
    """Inspect `parts` parts with a daemon of the station; blocks until it has ended. Raises DaemonFailed."""
    command = [sys.executable, "-m", "inspectd", "run", "--station", str(settings), "--max-parts", str(parts)]
    context: Context = zmq.Context()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with (
            context.socket(zmq.SUB) as socket,
            log.open("w", encoding="utf-8") as output,
            subprocess.Popen(command, stdout=output, stderr=output) as daemon,  # noqa: S603 - our own program
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            socket.setsockopt(zmq.SUBSCRIBE, result_topic(station.station))
            socket.connect(station.outputs.results)
            bar = progress.add_task("inspecting", total=parts)
            try:
                _follow(socket, daemon, lambda seq: progress.update(bar, completed=min(seq, parts)))
            except BaseException:
                daemon.terminate()
                raise
            exit_code = daemon.wait(ENDS_S)
            progress.update(bar, completed=parts)
    finally:
        context.destroy(linger=0)
    if exit_code:
        raise DaemonFailed(exit_code, log)


def _follow(socket: zmq.Socket[bytes], daemon: subprocess.Popen[bytes], seen: Callable[[int], object]) -> None:
    """Report each announced sequence number until the process has ended."""
    while daemon.poll() is None:
        if socket.poll(POLL_MS):
            _topic, message = socket.recv_multipart()
            seen(int(from_bytes(message, "inspectd.result")["seq"]))
