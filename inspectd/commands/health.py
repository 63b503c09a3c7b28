"""`inspectd health`: is the running daemon healthy? One line, exit code 0 or 10."""

from __future__ import annotations

import argparse

from inspectd.config import load_station
from inspectd.errors import NotHealthy
from inspectd.wire.client import ask
from inspectd.wire.errors import WireError

EPILOG = """\
examples:
  inspectd health --station smdc
  inspectd health --station smdc || systemctl restart inspectd@smdc
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "health",
        help="ask a running daemon whether it is healthy",
        description="Ask the station's daemon how it is. Ends with 0 where it is running, with 10 where it is not.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="S", help="seconds to wait for an answer")


def run(args: argparse.Namespace) -> int:
    """Ask; returns 0. Raises NotHealthy, SettingsError."""
    station = load_station(args.station)
    try:
        status = ask(station.outputs.queries, {"ask": "status"}, args.timeout)[0]["status"]
    except WireError as error:
        raise NotHealthy(str(error)) from error
    verdicts = ", ".join(f"{total} {name}" for name, total in status["verdicts"].items())
    line = f"{status['station']} {status['state']}, up {status['uptime_s']:.0f} s: {verdicts}"
    if status["station"] != station.station:
        raise NotHealthy(f"{station.outputs.queries} is answered by station {status['station']}")
    if status["state"] != "running":
        raise NotHealthy("; ".join([line, *status["why"]]))
    print(line)
    return 0
