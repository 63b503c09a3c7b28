"""`inspectd watch`: the verdicts of a running daemon, live in a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import zmq
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from inspectd.commands.arguments import add_key, client_key, count
from inspectd.config import load_station
from inspectd.terminal import PlainConsole, printable
from inspectd.wire.curve import Handshakes, connect
from inspectd.wire.errors import WireError
from inspectd.wire.public import SILENT_S, Json, from_bytes, health_topic, result_topic
from inspectd.wire.sockets import Context, Socket

SHOWN = 12
REMEMBERED = 1000
REFRESHES_PER_S = 8
COLOURS = {"PASS": "green", "REJECT": "red", "INVALID": "yellow"}


EPILOG = """\
examples:
  inspectd watch --station smdc
  inspectd watch --station smdc --max-parts 100 | grep REJECT
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "watch",
        help="follow the verdicts in a terminal",
        description="Follow the verdicts of a running daemon; Ctrl-C ends it. Without a terminal: one line per part.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    add_key(parser)
    parser.add_argument("--max-parts", type=count, metavar="N", help="end after N verdicts")


def run(args: argparse.Namespace) -> int:
    """Follow until Ctrl-C or N verdicts; returns 0. Raises EndpointError, KeysError, SettingsError."""
    station = load_station(args.station)
    key = client_key(station, args.key)
    context: Context = zmq.Context()
    try:
        with (
            context.socket(zmq.SUB) as socket,
            closing(connect(socket, station.outputs.results, key)) as handshakes,
        ):
            for topic in (result_topic(station.station), health_topic(station.station)):
                socket.subscribe(topic)
            follow(socket, handshakes, View(station.station, station.outputs.results), args.max_parts)
    except KeyboardInterrupt:
        return 0  # the ordinary way to end it
    finally:
        context.destroy(linger=0)
    return 0


@dataclass
class View:
    """What is on the screen: counts and the newest verdicts."""

    station: str
    endpoint: str
    outcomes: Counter[str] = field(default_factory=Counter)
    newest: deque[Json] = field(default_factory=lambda: deque(maxlen=SHOWN))
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    health: Json = field(default_factory=dict)
    heard_s: float = 0.0
    missed: int = 0
    unreadable: int = 0

    def take(self, message: Json) -> None:
        """Take in a result or a health message."""
        self.heard_s = time.monotonic()
        if message["schema"] == "inspectd.health":
            self.health = message
            return
        if self.newest:
            newest = self.newest[-1]
            same_run = message.get("run") == newest.get("run")  # else numbers have begun again with 1
            self.missed += max(0, message["seq"] - (newest["seq"] if same_run else 0) - 1)
        self.outcomes[message["verdict"]] += 1
        self.newest.append(message)
        self.latencies_ms.append(message["latency_ms"])
        self.arrivals_s.append(self.heard_s)

    def draw(self) -> Panel:
        """The whole picture."""
        return Panel(Group(self._summary(), Text(), self._table()), title=f"inspectd {self.station}")

    def _summary(self) -> Text:
        if not self.heard_s:
            return Text(f"waiting for {self.endpoint} (is the daemon running?)", style="yellow")
        text = Text()
        for outcome, colour in COLOURS.items():
            text.append(f"{outcome} {self.outcomes[outcome]}   ", style=colour)
        if len(self.arrivals_s) > 1:
            span_s = max(1e-3, self.arrivals_s[-1] - self.arrivals_s[0])
            text.append(f"{(len(self.arrivals_s) - 1) / span_s:.1f} parts/s   ")
            p50, p99 = np.percentile(list(self.latencies_ms), (50, 99))
            text.append(f"trigger to verdict p50 {p50:.2f} p99 {p99:.2f} max {max(self.latencies_ms):.2f} ms   ")
        if self.missed:
            text.append(f"missed {self.missed}   ", style="yellow")
        if self.unreadable:
            text.append(f"BLIND: {self.unreadable} messages of another version could not be read   ", style="bold red")
        if time.monotonic() - self.heard_s > SILENT_S:
            text.append("SILENT: no heartbeat", style="bold red")
        elif self.health:
            state = self.health["state"]
            text.append("; ".join([state, *self.health["why"]]), style="green" if state == "running" else "bold red")
        return text

    def _table(self) -> Table:
        table = Table(box=None, expand=True)
        for heading in ("seq", "part", "verdict", "score", "limit", "ms", "detail"):
            table.add_column(heading, no_wrap=True, ratio=1 if heading == "detail" else None)
        for message in reversed(self.newest):
            table.add_row(*_cells(message), style=COLOURS[message["verdict"]])
        return table


def follow(socket: Socket, handshakes: Handshakes, view: View, max_parts: int | None) -> None:
    """Show what the socket brings until `max_parts` verdicts have come. Raises EndpointError where it is refused."""
    seen = 0
    console = PlainConsole()
    # It is drawn by this thread: what cannot be drawn ends the command, and no old screen stays as if it were new.
    live = Live(view.draw(), console=console, auto_refresh=False) if console.is_terminal else None
    if live is not None:
        live.start()
    try:
        while max_parts is None or seen < max_parts:
            handshakes.check()
            if socket.poll(1000 // REFRESHES_PER_S):
                message = _read(socket)
                if message is None:
                    view.unreadable += 1
                    continue
                if message.get("station") != view.station:
                    continue
                view.take(message)
                is_result = message["schema"] == "inspectd.result"
                seen += is_result
                if is_result and live is None:
                    sys.stdout.write(printable("  ".join(_cells(message))) + "\n")
                    sys.stdout.flush()
            if live is not None:
                live.update(view.draw(), refresh=True)
    finally:
        if live is not None:
            live.stop()


def _read(socket: Socket) -> Json | None:
    """One message, perhaps of another station whose name begins alike; None for one of another version."""
    topic, body = socket.recv_multipart()
    try:
        return from_bytes(body, f"inspectd.{topic.partition(b'.')[0].decode()}")
    except (WireError, UnicodeDecodeError):
        return None


def _cells(message: Json) -> tuple[str, ...]:
    score, limit = message["part_score"], message["thresholds"]["part"]
    return (
        str(message["seq"]),
        message["part_id"],
        message["verdict"],
        "" if score is None else f"{score:.4g}",
        "" if limit is None else f"{limit:.4g}",
        f"{message['latency_ms']:.2f}",
        "" if message["verdict"] == "PASS" else message["detail"],
    )
