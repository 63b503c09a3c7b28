"""`inspectd health`: is the running daemon healthy? One line, and an exit code that says how."""

from __future__ import annotations

import argparse
import json

from inspectd.commands.arguments import DAY_S, add_key, client_key, number
from inspectd.config import load_station
from inspectd.errors import Degraded, NotHealthy
from inspectd.wire.client import ask
from inspectd.wire.errors import WireError

EPILOG = """\
examples:
  inspectd health --station smdc
  inspectd health --station smdc --json | jq .latency_ms

exit codes: 0 running; 12 degraded (verdicts hold, something needs a person); 10 starting, stopping or stalled (verdicts
are not to be relied on); 13 no answer; 3 settings. systemd restarts a stalled daemon by itself (WatchdogSec).
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "health",
        help="ask a running daemon whether it is healthy",
        description="Ask the station's daemon how it is. Ends with 0 only where it runs and lacks nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    add_key(parser)
    parser.add_argument("--timeout", type=number(DAY_S), default=2.0, metavar="S", help="seconds to wait for an answer")
    parser.add_argument("--json", action="store_true", help="print the health message (docs/messages.md)")


def run(args: argparse.Namespace) -> int:
    """Ask; returns 0. Raises NotHealthy, Degraded, NoAnswer, SettingsError."""
    station = load_station(args.station)
    key = client_key(station, args.key)
    try:
        status = ask(station.outputs.queries, {"ask": "status"}, args.timeout, key)[0]["status"]
    except WireError as error:
        raise NotHealthy(str(error)) from error
    verdicts = ", ".join(f"{total} {name}" for name, total in status["verdicts"].items())
    line = f"{status['station']} {status['state']}, up {status['uptime_s']:.0f} s: {verdicts}"
    if status["station"] != station.station:
        raise NotHealthy(f"{station.outputs.queries} is answered by station {status['station']}")
    if args.json:
        print(json.dumps(status))
    elif status["state"] == "running":
        print(line)
    if status["state"] != "running":
        kind = Degraded if status["state"] == "degraded" else NotHealthy
        raise kind("; ".join([line, *status["why"]]))
    return 0
