"""What a soak run stands on: the daemon's settings and bundles in a folder of their own, and the two ways to run it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from benchmarking.daemon import Bench, free_port, set_up, subscriber

from engines.artifact import Bundle, activate
from inspectd.config import Station
from soaking.bundles import copy_bundle
from soaking.faults import mishaps
from soaking.memory import engine_mib
from soaking.mischief import Mischief
from soaking.rates import Line, highest_rate
from soaking.run import Observed, Soak
from soaking.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
KEEP_BYTES = 256 * 2**20
"""Of records and images: some hundred thousand parts, far more than are waiting to be counted."""
TAKEN_WITHIN_MS = 10_000


@dataclass(frozen=True, slots=True)
class Ground:
    """A station, the bundle that it judges with, and an empty folder for everything that a run writes."""

    station: Station
    bundle: Bundle
    folder: Path


def sustained_rate(ground: Ground, tell: Callable[[str], None]) -> float:
    """The most parts a second that are all judged in time; blocks for about a minute. Raises BenchmarkError."""
    folder = ground.folder / "rate"
    folder.mkdir()
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    bench = _bench(ground, folder, {"source": "zmq", "endpoint": endpoint})
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with ExitStack() as stack:
        stack.callback(context.term)
        triggers = stack.enter_context(context.socket(zmq.PUSH))
        triggers.linger = 0
        triggers.sndhwm = 0  # too many at once are the daemon's to refuse
        triggers.immediate = True
        triggers.sndtimeo = TAKEN_WITHIN_MS
        triggers.connect(endpoint)
        results = stack.enter_context(subscriber(bench))
        supervisor = stack.enter_context(closing(Supervisor(_plain(bench, ground), folder, _environment())))
        supervisor.start()
        rate_hz = highest_rate(Line(triggers, results), tell)
        supervisor.end(signal.SIGTERM)
    return rate_hz


def soak(
    ground: Ground, *, period_ms: float, parts: int, seed: int | None, every: int, progress: Callable[[int], None]
) -> Observed:
    """Run until so many parts have their verdict. seed: of the faults, one each `every` parts; None: no faults."""
    folder = ground.folder / "soak"
    folder.mkdir()
    root = folder / "bundles"
    bench = _bench(ground, folder, {"source": "timer", "period_ms": period_ms}, bundles=str(root))
    with ExitStack() as stack:
        results = stack.enter_context(subscriber(bench, health=True))
        command, mischief, one_engine_mib = _plain(bench, ground), None, 0.0
        if seed is not None:
            one_engine_mib = engine_mib(bench.settings, ground.bundle.folder, _environment())
            control = f"ipc://{folder / 'control'}"
            pair = (copy_bundle(ground.bundle, root), copy_bundle(ground.bundle, root))
            activate(root, bench.station, pair[0].hash)
            mischief = stack.enter_context(closing(Mischief(bench, control, root, pair)))
            command = [sys.executable, str(ROOT / "tools" / "faulty_daemon.py"), "--station", str(bench.settings)]
            command += ["--control", control]
        supervisor = stack.enter_context(closing(Supervisor(command, folder, _environment())))
        supervisor.start()
        plan = mishaps(seed or 0, every)
        observed = Soak(bench, supervisor, results, parts=parts, mischief=mischief, plan=plan).run(progress)
        observed.engine_mib = one_engine_mib
        return observed


def _bench(ground: Ground, folder: Path, trigger: dict[str, Any], **changes: str) -> Bench:
    records = {"folder": str(folder / "records"), "keep_bytes": KEEP_BYTES}
    return set_up(ground.station, folder, trigger=trigger, records=records, **changes)


def _plain(bench: Bench, ground: Ground) -> list[str]:
    settings, bundle = str(bench.settings), str(ground.bundle.folder)
    return [sys.executable, "-m", "inspectd", "run", "--station", settings, "--bundle", bundle]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"}
