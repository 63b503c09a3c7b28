"""A line around the real daemon with fault injectors: its process, its triggers, and all that it says. Not a test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import zmq
from faulting.control import Control
from line_values import free_port
from prometheus_client.parser import text_string_to_metric_families
from tiny_station import NAME, ROOT, TinyStation, environment

from inspectd.config import load_station
from inspectd.records.reading import RecordReader
from inspectd.wire.client import ask

PATIENCE_S = 60.0
TURN_S = 0.02
DEADLINE_MS = 1500
Json = dict[str, Any]


def until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait for something that the daemon does; `what` says in the end what it did not."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, f"not within {PATIENCE_S:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(TURN_S)


class Listener:
    """Subscribed to everything that a station says, from before its daemon starts; over all its runs."""

    def __init__(self, endpoint: str) -> None:
        self.results: list[Json] = []
        self.health: list[Json] = []
        self._stop = Event()
        self._thread = Thread(target=self._listen, args=(endpoint,), daemon=True)
        self._thread.start()

    def by_part(self, part_id: str) -> Json | None:
        """The result of one part, None where it was not announced."""
        return next((result for result in reversed(self.results) if result["part_id"] == part_id), None)

    def close(self) -> None:
        """Hang up."""
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def _listen(self, endpoint: str) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context.socket(zmq.SUB) as hearing:
            hearing.set_hwm(0)
            hearing.linger = 0
            hearing.subscribe(b"")
            hearing.connect(endpoint)
            while not self._stop.is_set():
                if not hearing.poll(50):
                    continue
                topic, body = hearing.recv_multipart()
                kind = topic.decode().split(".")[0]
                if kind == "result":
                    self.results.append(json.loads(body))
                elif kind == "health":
                    self.health.append(json.loads(body))
        context.term()


class FaultyLine:
    """One station with a real bundle: parts are asked for one by one, by message. `start` begins a (further) run.

    program: the daemon, and what it takes before --station and --control.
    """

    program: Sequence[str] = (str(ROOT / "tools" / "faulty_daemon.py"),)

    def __init__(self, tiny: TinyStation, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.trigger_endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.metrics_port = free_port()
        trigger = {"source": "zmq", "endpoint": self.trigger_endpoint, **changes.pop("trigger", {})}
        outputs = {"metrics_port": self.metrics_port}
        line = {"deadline_ms": DEADLINE_MS, **changes.pop("line", {})}
        drift = {"enabled": False}  # four rendered parts in a circle look like no good parts of calibration
        self.settings = tiny.settings(folder, trigger=trigger, outputs=outputs, line=line, drift=drift, **changes)
        self.station = load_station(str(self.settings))
        self.heard = Listener(self.station.outputs.results)
        self.log: list[Json] = []
        self._asked = 0
        self._runs = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._plc = self._context.socket(zmq.PUSH)
        self._plc.linger = 0
        self._plc.connect(self.trigger_endpoint)

    def start(self) -> None:
        """Start the daemon and wait until it is ready and heard."""
        self._runs += 1
        self._control_endpoint = f"ipc://{self.folder}/control-{self._runs}"
        self._log_path = self.folder / f"log-{self._runs}.jsonl"
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = self.folder / f"notify-{self._runs}"
        self._systemd.bind(str(address))
        self._systemd.settimeout(PATIENCE_S)
        with self._log_path.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *self.program,
                    *("--station", str(self.settings), "--control", self._control_endpoint),
                ],
                stderr=log,
                cwd=self.folder,
                env={**environment(), "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "3000000"},
            )
        self.control = Control(self._control_endpoint)
        self.wait_for_notice("READY=1")
        known = len(self.heard.health)
        until(lambda: len(self.heard.health) > known, "the daemon is heard")

    def wait_for_notice(self, notice: str) -> None:
        """Block until systemd is told so."""
        self._systemd.settimeout(1.0)
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                if notice in self._systemd.recv(4096).decode():
                    return
            except TimeoutError:
                assert self.process.poll() is None, self._log_path.read_text()[-2000:]
                assert time.monotonic() < give_up_s, f"systemd was not told {notice}"

    def notices_now(self) -> list[str]:
        """What systemd has been told and not been asked for yet."""
        self._systemd.setblocking(False)
        heard = []
        while True:
            try:
                heard.append(self._systemd.recv(4096).decode())
            except BlockingIOError:
                return heard

    def ask(self, parts: int = 1) -> list[str]:
        """Trigger so many parts; returns their names."""
        names = [f"part-{self._asked + number}" for number in range(parts)]
        self._asked += parts
        for name in names:
            self._plc.send(json.dumps({"part_id": name}).encode())
        return names

    def results(self, names: list[str]) -> list[Json]:
        """The results of these parts, waited for."""
        until(lambda: all(self.heard.by_part(name) for name in names), f"results of {names}")
        return [result for name in names if (result := self.heard.by_part(name)) is not None]

    def part(self) -> Json:
        """Trigger one part and wait for its result."""
        return self.results(self.ask())[0]

    def reasons(self, parts: int) -> list[str]:
        """Trigger so many parts, one after the other; why each verdict is what it is."""
        return [str(self.part()["reason"]) for _ in range(parts)]

    def recovers(self) -> None:
        """Parts are judged again, by themselves; those until then are INVALID."""
        give_up_s = time.monotonic() + PATIENCE_S
        while (result := self.part())["verdict"] == "INVALID":
            assert time.monotonic() < give_up_s, result
        assert result["part_score"] is not None

    def status(self) -> Json:
        """The health message, asked for."""
        status: Json = ask(self.station.outputs.queries, {"ask": "status"}, PATIENCE_S)[0]["status"]
        return status

    def wait_for_state(self, state: str, why: str = "") -> None:
        """Block until health says so, and why."""

        def is_so() -> bool:
            status = self.status()
            return status["state"] == state and why in "; ".join(status["why"])

        until(is_so, lambda: f"health {state} {why}, but {self.status()['state']}: {self.status()['why']}")

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        return {
            ",".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal where it still runs; returns the exit code, and takes its log in."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        code = self.process.wait(PATIENCE_S)
        self.control.close()
        self._systemd.close()
        for line in self._log_path.read_text().splitlines():
            self.log.append(json.loads(line) if line.startswith("{") else {"event": line})
        return code

    def events(self) -> list[str]:
        """What was logged, by its event, after `end`."""
        return [str(line["event"]) for line in self.log]

    def logged(self, event: str) -> Json:
        """The first log line of an event, after `end`."""
        return next(line for line in self.log if line["event"] == event)

    def close(self) -> None:
        """Kill it where it still runs, and hang up."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.end(signal.SIGKILL)
        self.heard.close()
        self._plc.close()
        self._context.term()

    def records(self) -> list[Any]:
        """Every stored part."""
        with RecordReader(self.station.records.folder / NAME) as reader:
            return list(reader.all())
