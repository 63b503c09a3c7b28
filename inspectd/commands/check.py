"""`inspectd check`: settings, bundle, engine, camera, records and ports; one line each, what is wrong first."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import zmq

from engines.errors import EnginesError
from inspectd.cameras import open_camera
from inspectd.config import Station, load_station
from inspectd.errors import InspectdError
from inspectd.health.http import MetricsServer
from inspectd.loading import find_bundle, load_engine
from inspectd.locate import LocateFault, Locator
from inspectd.records import database
from inspectd.wire.door import Door
from inspectd.wire.sockets import Context

EPILOG = """\
example:
  inspectd check --station smdc && systemctl start inspectd@smdc
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "check",
        help="validate settings, bundle and camera",
        description="Check all that `inspectd run` needs, and say in one line each what is wrong. "
        "Ends with 0, or with the exit code of the first fault.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")


def run(args: argparse.Namespace) -> int:
    """Check; returns the exit code of the first fault, 0 where there is none. Raises SettingsError."""
    station = load_station(args.station)
    print(f"ok     settings  station {station.station}, canvas {station.canvas.width_px}x{station.canvas.height_px}")
    checks: dict[str, Callable[[], str]] = {
        "engine": lambda: _engine(station, args.bundle),
        "camera": lambda: _camera(station),
        "records": lambda: _records(station),
        "ports": lambda: _ports(station),
    }
    first_fault = 0
    for name, check in checks.items():
        try:
            print(f"ok     {name:9} {check()}")
        except (InspectdError, EnginesError) as error:
            print(f"WRONG  {name:9} {error}")
            first_fault = first_fault or error.exit_code
    return first_fault


def _engine(station: Station, path: Path | None) -> str:
    bundle = find_bundle(station, path)
    engine = load_engine(station, bundle)
    info = engine.runtime.info
    engine.runtime.close()
    golden = len(bundle.manifest.golden)
    used = f"{info.runtime} {info.precision} ({engine.why})"
    return f"bundle {bundle.short_hash}, {used}, {golden} golden images reproduced"


def _camera(station: Station) -> str:
    with closing(open_camera(station.camera)) as camera:
        shot = camera.grab(station.trigger.frame_timeout_ms / 1e3)
    height, width = shot.image.shape[:2]
    seen = f"{station.camera.kind}, {width}x{height}"
    try:
        pose = Locator(station.locate, station.canvas).locate(shot.image).pose
    except LocateFault as fault:
        return f"{seen}; no part located: {fault.detail}"
    return f"{seen}; part at ({pose.x_px:.0f}, {pose.y_px:.0f}), {pose.angle_deg:.1f} degrees, scale {pose.scale:.2f}"


def _records(station: Station) -> str:
    folder = station.records.folder / station.station
    database.check(folder)
    return str(folder)


def _ports(station: Station) -> str:
    ports = [(zmq.PUB, station.outputs.results), (zmq.ROUTER, station.outputs.queries)]
    if station.trigger.source == "zmq" and station.trigger.endpoint is not None:
        ports.append((zmq.PULL, station.trigger.endpoint))
    context: Context = zmq.Context()
    door = Door(context, station.endpoints(), keys=station.key_folder(), refused=lambda: None)
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
    return ", ".join(names) + how
