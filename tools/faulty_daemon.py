#!/usr/bin/env python3
"""The real daemon with fault injectors around its camera, its engine and its wall clock: for tests and soak runs only.

`inspectd run` knows nothing of them. Faults are armed over the control socket (`faulting.control.Control`).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from faulting.board import Board
from faulting.camera import FaultyCamera
from faulting.clock import WallClock
from faulting.control import ControlServer
from faulting.engine import faulty_engine

from inspectd.commands.arguments import count
from inspectd.commands.run import Signals, serve
from inspectd.config import load_station, notify_address
from inspectd.exits import run_program
from inspectd.health.systemd import Notifier
from inspectd.loading import Sources, station_sources
from inspectd.logs import set_up_logging

EPILOG = """\
example:
  tools/faulty_daemon.py --station smdc --control ipc:///tmp/faults --max-parts 1000
"""


def faulty(sources: Sources, board: Board) -> Sources:
    """The same camera and engine, each behind its injector."""
    return Sources(camera=lambda: FaultyCamera(sources.camera, board), engine=faulty_engine(sources.engine, board))


def run(arguments: list[str]) -> int:
    """Serve as `inspectd run` does; returns its exit code."""
    args = _parse(arguments)
    set_up_logging()
    signals = Signals()
    board, clock = Board(), WallClock()
    clock.install()
    station = load_station(args.station)
    with Notifier(notify_address()) as notifier, closing(ControlServer(args.control, board, clock)):
        sources = faulty(station_sources(station), board)
        return serve(station, sources, notifier, signals, bundle=args.bundle, max_parts=args.max_parts)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="faulty_daemon", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--control", required=True, help="where to listen for faults: ipc://PATH or tcp://127.0.0.1:N")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    parser.add_argument("--max-parts", type=count, metavar="N", help="stop after N parts")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_program("faulty_daemon", sys.argv[1:], run))
