"""`inspectd check`: settings, bundle, engine and its speed, camera, records and ports; one line each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from engines.artifact import Bundle
from engines.errors import EnginesError
from inspectd.cameras import open_camera
from inspectd.config import Station, load_station
from inspectd.errors import InspectdError
from inspectd.health.http import MetricsServer
from inspectd.loading import find_bundle, load_engine, part_template
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.pace import Pace, engine_times, fewest_that_hold, held, thread_counts, timer_period_ms
from inspectd.records import database
from inspectd.wire.door import Door
from inspectd.wire.sockets import Context

FIRST_IMAGE_S = 5.0
"""What a camera that has just been opened may take; it is not yet the line's pace."""
EPILOG = """\
example:
  inspectd check --station smdc && systemctl start inspectd@smdc
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "check",
        help="validate settings, bundle and camera",
        description="Check all that `inspectd run` needs, and say in one line each what is wrong, or SLOW on this "
        "machine. Ends with 0, or with the exit code of the first fault.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")


def run(args: argparse.Namespace) -> int:
    """Check; returns the exit code of the first fault, 0 where there is none. Raises SettingsError."""
    station = load_station(args.station)
    print(_ok("settings", f"station {station.station}, canvas {station.canvas.width_px}x{station.canvas.height_px}"))
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "engine": lambda: _engine(station, args.bundle),
        "camera": lambda: _camera(station, args.bundle),
        "records": lambda: _records(station),
        "ports": lambda: _ports(station),
    }
    first_fault = 0
    for name, check in checks.items():
        try:
            for line in check():
                print(line)
        except (InspectdError, EnginesError) as error:
            print(f"WRONG  {name:9} {error}")
            first_fault = first_fault or error.exit_code
    return first_fault


def _ok(name: str, text: str) -> str:
    return f"ok     {name:9} {text}"


def _engine(station: Station, path: Path | None) -> Iterator[str]:
    bundle = find_bundle(station, path)
    engine = load_engine(station, bundle)
    try:
        info = engine.runtime.info
        used = f"{info.runtime} {info.precision} ({engine.why})"
        golden = len(bundle.manifest.golden)
        yield _ok("engine", f"bundle {bundle.short_hash}, {used}, {golden} golden images reproduced")
        times_ms = engine_times(bundle, engine.runtime)
        yield speed(station, times_ms)
    finally:
        engine.runtime.close()
    if info.runtime == "openvino" and not held(station, Pace.of(times_ms)):
        cores = len(os.sched_getaffinity(0))
        timed = {count: _times(station, bundle, count) for count in thread_counts(station.engine.threads, cores)}
        yield threads(station, times_ms, timed)


def _times(station: Station, bundle: Bundle, count: int) -> NDArray[np.float64]:
    engine = load_engine(
        station.model_copy(update={"engine": station.engine.model_copy(update={"threads": count})}), bundle
    )
    try:
        return engine_times(bundle, engine.runtime)
    finally:
        engine.runtime.close()


def threads(station: Station, own_ms: NDArray[np.float64], others_ms: Mapping[int, NDArray[np.float64]]) -> str:
    """Whether another number of threads, each with the milliseconds that inferences took, serves the station better."""
    best = fewest_that_hold(station, own_ms, others_ms)
    if best is None:
        tried = ", ".join(map(str, sorted(others_ms))) or "none that this machine has a core for"
        return _ok("threads", f"engine.threads: {station.engine.threads} is as good as any other (tried {tried})")
    text = f"engine.threads: {best} takes {float(np.median(others_ms[best])):.1f} ms a part"
    return _ok("threads", f"{text}; with it this machine holds {Pace.of(others_ms[best]).proposal(station)}")


def speed(station: Station, times_ms: NDArray[np.float64]) -> str:
    """Whether inferences that take these milliseconds leave a line like this one a verdict for each part."""
    deadline_ms, period_ms = station.line.deadline_ms, timer_period_ms(station)
    usual_ms, longest_ms = float(np.median(times_ms)), float(times_ms.max())
    wanted = f"deadline {deadline_ms:g} ms" + (f", one part each {period_ms:g} ms" if period_ms is not None else "")
    text = f"{usual_ms:.1f} ms a part, {longest_ms:.1f} ms for the slowest of {len(times_ms)}; {wanted}"
    pace = Pace.of(times_ms)
    holds = f"this machine holds {pace.proposal(station)}"
    if longest_ms < deadline_ms and (period_ms is None or usual_ms < period_ms):
        return _ok("speed", text if held(station, pace) else f"{text}: little headroom; {holds}")
    cure = "see what else runs here, engine.threads and engine.precision (docs/engine.md), or take a faster machine"
    return f"SLOW   {'speed':9} {text}: parts will be INVALID; {holds}; {cure}"


def _camera(station: Station, path: Path | None) -> Iterator[str]:
    yield _ok("camera", _seen(station, path))


def _bundle(station: Station, path: Path | None) -> Bundle | None:
    """None where there is none, which the check of the engine says."""
    try:
        return find_bundle(station, path)
    except EnginesError:
        return None


def _seen(station: Station, path: Path | None) -> str:
    with closing(open_camera(station.camera)) as camera:
        shot = camera.grab(max(FIRST_IMAGE_S, station.trigger.frame_timeout_ms / 1e3))
    height, width = shot.image.shape[:2]
    seen = f"{station.camera.kind}, {width}x{height}"
    bundle = _bundle(station, path)
    if bundle is None and station.locate.mode == "part":
        return f"{seen}; no part located: locate.mode part needs a bundle"
    template = None if bundle is None else part_template(bundle)
    levels = station.levels if bundle is None else bundle.manifest.settings.levels
    try:
        located = Locator(station.locate, station.canvas, template, levels).locate(shot.image)
    except LocateFault as fault:
        return f"{seen}; no part located: {fault.detail}"
    pose = located.pose
    sure = "" if located.sure is None else f", likeness {located.sure:.2f}"
    place = f"({pose.x_px:.0f}, {pose.y_px:.0f})"
    return f"{seen}; part at {place}, {pose.angle_deg:.1f} degrees, scale {pose.scale:.2f}{sure}"


def _records(station: Station) -> Iterator[str]:
    folder = station.records.folder / station.station
    database.check(folder)
    yield _ok("records", str(folder))


def _ports(station: Station) -> Iterator[str]:
    ports = [(zmq.PUB, station.outputs.results), (zmq.ROUTER, station.outputs.queries)]
    if station.trigger.source == "zmq" and station.trigger.endpoint is not None:
        ports.append((zmq.PULL, station.trigger.endpoint))
    context: Context = zmq.Context()
    door = Door(
        context, station.endpoints(), keys=station.key_folder(), refused=lambda: None, closed=lambda connections: None
    )
    try:
        door.open(lambda: None)
        for kind, endpoint in ports:
            door.bind(kind, endpoint, 1).close(linger=0)
    finally:
        door.close()
        context.term()
    names = [endpoint for _, endpoint in ports]
    if (port := station.outputs.metrics_port) is not None:
        MetricsServer(port, metrics=bytes, ready=lambda: (False, "")).close()
        names.append(f"127.0.0.1:{port}")
    how = f", clients allowed through TCP: {door.guests}" if station.key_folder() else ""
    yield _ok("ports", ", ".join(names) + how)
