"""A real daemon in a process of its own, on the simulated camera, for whoever measures one: settings, life, memory."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
import zmq

from engines.artifact import Bundle
from inspectd.config import Station
from inspectd.errors import InspectdError
from inspectd.wire.public import health_topic, result_topic

SIMULATED = {"kind": "simulated", "seed": 1, "pool": 256, "defect_share": 0.1}
RECONNECT_MS = 10
_given: set[int] = set()


class BenchmarkError(InspectdError):
    """The daemon did not do what is to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a measured daemon stands: its settings file, the folder of its records, and where it is reached."""

    station: str
    settings: Path
    records: Path
    results: str
    queries: str
    metrics_port: int


def set_up(station: Station, folder: Path, **changes: dict[str, Any] | str) -> Bench:
    """Write the station below `folder`: as it is, but on the simulated camera, free ports and records of its own.

    changes: settings by section, over what the station says. It listens on the loopback only, without keys.
    """
    raw = station.model_dump(mode="json")
    results, queries, port = (free_port() for _ in range(3))
    raw["camera"] = dict(SIMULATED)
    raw["outputs"] = {
        "results": f"tcp://127.0.0.1:{results}",
        "queries": f"tcp://127.0.0.1:{queries}",
        "metrics_port": port,
    }
    raw["security"] = {**raw["security"], "curve": "off"}
    for section, values in {"records": {"folder": str(folder / "records")}, **changes}.items():
        raw[section] = values if isinstance(values, str) else {**raw[section], **values}
    path = folder / f"{station.station}.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return Bench(
        station=station.station,
        settings=path,
        records=Path(raw["records"]["folder"]) / station.station,
        results=raw["outputs"]["results"],
        queries=raw["outputs"]["queries"],
        metrics_port=port,
    )


@contextmanager
def running_daemon(bench: Bench, bundle: Bundle, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`inspectd run` on the bench, killed at the end of the block where it still runs; its output goes to `log`."""
    command = [
        sys.executable,
        "-m",
        "inspectd",
        "run",
        "--station",
        str(bench.settings),
        "--bundle",
        str(bundle.folder),
    ]
    with log.open("wb") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file)  # noqa: S603 - our own program
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def subscriber(bench: Bench, *, health: bool = False) -> Iterator[zmq.Socket[bytes]]:
    """A socket that hears every result, however slowly it is read; with `health` the heartbeat too."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with context.socket(zmq.SUB) as heard:
            heard.linger = 0
            heard.rcvhwm = 0
            heard.reconnect_ivl = RECONNECT_MS
            heard.subscribe(result_topic(bench.station))
            if health:
                heard.subscribe(health_topic(bench.station))
            heard.connect(bench.results)
            yield heard
    finally:
        context.term()


def resident_mib(pid: int) -> float:
    """A process's resident memory. Raises BenchmarkError where it has ended."""
    return _memory_mib(pid, "VmRSS:")


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has had. Raises BenchmarkError where it has ended."""
    return _memory_mib(pid, "VmHWM:")


def _memory_mib(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise BenchmarkError(f"/proc/{pid}/status says nothing of memory: is the daemon still there?")


def last_line(log: Path) -> str:
    """The newest line of a log file."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def free_port() -> int:
    """A TCP port that was free a moment ago, and that no earlier call gave: a station's ports must differ."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port
