"""`inspectd run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import structlog

from engines.artifact import open_bundle
from engines.errors import EnginesError
from inspectd.commands.arguments import count
from inspectd.config import Station, load_station, notify_address, watchdog_period_s
from inspectd.engine_guard import Engine
from inspectd.errors import StorageError
from inspectd.health.heartbeat import State
from inspectd.health.http import MetricsServer
from inspectd.health.meters import Count, Meters, Stage
from inspectd.health.systemd import Notifier
from inspectd.loading import Sources, locate_part, station_sources
from inspectd.locate import Locator
from inspectd.logs import set_up_logging
from inspectd.pace import Pace, engine_times, held
from inspectd.pipeline import Pipeline
from inspectd.process import Process, behind_the_rest, on_engine_cores, raise_file_limit

SUMMARY_S = 60.0
STATUS_S = 5.0
ENDS_WITHIN_S = 5
"""After which the kernel ends a process whose end waits for a thread that hangs in an engine or a camera."""
log = structlog.get_logger(__name__)

EPILOG = """\
examples:
  inspectd run --station smdc                      until SIGTERM or Ctrl-C
  inspectd run --station smdc --max-parts 1000     a thousand parts, then a summary
  inspectd run --station smdc --bundle /tmp/trial  with another bundle than the active one
"""


class Signals:
    """Set by signals, asked by the main loop; the handlers do nothing else.

    stop: SIGTERM or SIGINT came. SIGHUP asks for the bundle that is active now.
    """

    def __init__(self) -> None:
        self.stop = False
        self._exchange = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGHUP, self._ask_to_exchange)

    def exchange(self) -> bool:
        """Whether SIGHUP came since the last call."""
        asked, self._exchange = self._exchange, False
        return asked

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _ask_to_exchange(self, number: int, frame: FrameType | None) -> None:
        self._exchange = True


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "run",
        help="inspect: the daemon, in the foreground",
        description="Inspect parts until SIGTERM, Ctrl-C or the end of the footage.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    parser.add_argument("--max-parts", type=count, metavar="N", help="stop after N parts")


def run(args: argparse.Namespace) -> int:
    """Inspect; returns 0 after a clean end. Raises the errors of inspectd and engines with one line each."""
    set_up_logging()
    signals = Signals()
    with Notifier(notify_address()) as notifier:
        station = load_station(args.station)
        sources = station_sources(station)
        return serve(station, sources, notifier, signals, bundle=args.bundle, max_parts=args.max_parts)


def serve(
    station: Station,
    sources: Sources,
    notifier: Notifier,
    signals: Signals,
    *,
    bundle: Path | None,
    max_parts: int | None,
) -> int:
    """Load the engine, run one pipeline from READY to STOPPING, free the engine; 0, or 1 where a stage did not end.

    bundle: a bundle's folder, None for the active one. Raises StorageError in the end where records were lost,
    EngineLost where the engine failed too often.
    """
    notifier.tell(STATUS="loading")
    raise_file_limit()
    engine = _load(station, sources, bundle)
    _tell_pace(station, engine)
    cv2.setNumThreads(1)
    process = Process(station.process)
    process.before_stages()
    pipeline = Pipeline(
        station,
        engine=engine,
        load=partial(_load_beside, station, sources),
        locate=locate_part(Locator(station.locate, station.canvas)),
        camera=sources.camera,
        max_parts=max_parts,
    )
    pipeline.start()
    clean = False
    with ExitStack() as at_end:  # HTTP answers until the last verdict has been told
        try:
            at_end.enter_context(_metrics(station, pipeline))
            _place(process, pipeline)
            judge, info = engine.bundle_hash[:16], engine.runtime.info
            notifier.tell(READY="1", STATUS=f"inspecting, bundle {judge}")
            used = f"{info.runtime} {info.precision}"
            log.info("ready", station=station.station, bundle=judge, engine=used, why=engine.why)
            housekeeping = _housekeeping(pipeline, notifier, process)
            pipeline.run(lambda: signals.stop, _answering(signals, pipeline, bundle, housekeeping))
        finally:
            notifier.tell(STOPPING="1", STATUS="stopping")
            clean = _stop(pipeline)
    lost = pipeline.meters.counts().get(Count.ROWS_LOST.value, 0)
    if lost:
        raise StorageError(f"{station.records.folder}: {lost} records could not be written; free space there")
    return 0 if clean else 1


def _load(station: Station, sources: Sources, folder: Path | None) -> Engine:
    with on_engine_cores(station.process):
        return sources.engine(folder)


def _tell_pace(station: Station, engine: Engine) -> None:
    """Warn where the engine leaves the line no headroom on this machine; parts will then be INVALID now and then."""
    if engine.folder is None:
        return
    try:
        times_ms = engine_times(open_bundle(engine.folder), engine.runtime)
    except (EnginesError, OSError) as error:
        log.warning("the engine was not timed", why=str(error))
        return
    pace = Pace.of(times_ms)
    if not held(station, pace):
        log.warning(
            "the line asks for more than this machine holds with headroom: parts may be INVALID (late, overload)",
            usual_ms=round(float(np.median(times_ms)), 1),
            p99_ms=round(float(np.quantile(times_ms, 0.99)), 1),
            deadline_ms=station.line.deadline_ms,
            holds=pace.proposal(station),
        )


def _load_beside(station: Station, sources: Sources, folder: Path | None) -> Engine:
    """An engine for a daemon that judges meanwhile."""
    with behind_the_rest(station.process):
        return _load(station, sources, folder)


def _answering(
    signals: Signals, pipeline: Pipeline, bundle: Path | None, housekeeping: Callable[[], None]
) -> Callable[[], None]:
    """The housekeeping, and the exchange of bundles where SIGHUP has asked for it."""

    def turn() -> None:
        if signals.exchange():
            log.info("asked for another bundle", bundle=str(bundle or "the active one"))
            pipeline.exchange_bundle(bundle)
        housekeeping()

    return turn


def _stop(pipeline: Pipeline) -> bool:
    """Stop the stages; True for a clean end. What hangs for good cannot hold the end of the process up."""
    clean = pipeline.stop()
    log.info("stopped", **_summary(pipeline.meters))
    if pipeline.hangs:
        log.warning("something hangs for good: the process ends without it")
        signal.alarm(ENDS_WITHIN_S)
    return clean


def _metrics(station: Station, pipeline: Pipeline) -> AbstractContextManager[object]:
    """The HTTP server where the station wants one."""
    port = station.outputs.metrics_port
    if port is None:
        return nullcontext()
    heartbeat, meters = pipeline.heartbeat, pipeline.meters

    def metrics() -> bytes:
        meters.set_state(heartbeat.state()[0].value, State)
        return meters.prometheus()

    return closing(MetricsServer(port, metrics=metrics, ready=heartbeat.readiness))


def _place(process: Process, pipeline: Pipeline) -> None:
    """Give each stage's thread its cores and priority; what was refused stands in the metrics too."""
    process.stages_run(
        engine_thread=pipeline.thread_id(Stage.INSPECT),
        timed_threads=[pipeline.thread_id(stage) for stage in (Stage.TRIGGER, Stage.ACQUIRE, Stage.GATE)],
    )
    pipeline.meters.set_process(process.granted())


def _housekeeping(pipeline: Pipeline, notifier: Notifier, process: Process) -> Callable[[], None]:
    """What the main thread does ten times a second: the watchdog while verdicts leave in time, status, a summary."""
    heartbeat, meters = pipeline.heartbeat, pipeline.meters
    period_s = watchdog_period_s()
    next_s = {"watchdog": 0.0, "status": 0.0, "summary": time.monotonic() + SUMMARY_S}

    def turn() -> None:
        now_s = time.monotonic()
        if period_s is not None and now_s >= next_s["watchdog"] and heartbeat.advances():
            next_s["watchdog"] = now_s + period_s / 3
            notifier.tell(WATCHDOG="1")
        if now_s >= next_s["status"]:
            next_s["status"] = now_s + STATUS_S
            state, why = heartbeat.state()
            notifier.tell(STATUS="; ".join([state.value, *why, str(meters.outcomes())]))
        if now_s >= next_s["summary"]:
            next_s["summary"] = now_s + SUMMARY_S
            log.info("summary", **_summary(meters))
        process.idle(meters.pending, pipeline.engines_freed)

    return turn


def _summary(meters: Meters) -> dict[str, object]:
    happened = {name: total for name, total in meters.counts().items() if total}
    return {"verdicts": meters.outcomes(), "latency_ms": meters.latencies_ms(), "counts": happened}
