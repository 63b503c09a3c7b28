"""The daemon as a process: signals, systemd, kill -9, and the commands and clients that talk to it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zmq
from closable import Keep
from line_values import settings as raw_settings

from inspectd.__main__ import main
from inspectd.config import load_station
from inspectd.records.reading import RecordReader
from inspectd.wire.client import ask
from inspectd.wire.errors import WireError

PATIENCE_S = 30.0
NOTICE_S = 20.0
ROOT = Path(__file__).resolve().parent.parent.parent
DAEMON = Path(__file__).resolve().parent / "daemon_with_fake_runtime.py"
UNHURRIED = {"line": {"deadline_ms": 30_000}, "trigger": {"period_ms": 20}}
"""A machine that stands still for a while overloads no queue, and misses no deadline."""


class Daemon:
    """A running daemon and the systemd that it believes to have."""

    def __init__(
        self,
        folder: Path,
        *,
        score: float,
        max_parts: int,
        engine_ms: float = 0,
        prefix: Sequence[str] = (),
        **changes: Any,
    ) -> None:
        self.path = folder / "test.yaml"
        if not self.path.exists():
            self.path.write_text(yaml.safe_dump(raw_settings(folder, **changes)))
        self.station = load_station(str(self.path))
        address = folder / f"notify-{len(list(folder.iterdir()))}"
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind(str(address))
        self._systemd.settimeout(NOTICE_S)
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(DAEMON), str(self.path), str(score), str(max_parts), str(engine_ms)],
            env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "3000000"},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, notice: str) -> None:
        """Block until systemd is told so."""
        heard = ""
        while notice not in heard:
            try:
                heard = self._systemd.recv(4096).decode()
            except TimeoutError:
                assert self.process.poll() is None, self.end()
                raise

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[dict[str, Any]]]:
        """Send a signal where it still runs; returns exit code and log lines."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=PATIENCE_S)
        self._systemd.close()
        return self.process.returncode, [json.loads(line) for line in log.splitlines() if line.startswith("{")]

    def close(self) -> None:
        """Kill it where it still runs, and close what it left."""
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stderr is not None and not self.process.stderr.closed:
            self.process.communicate(timeout=PATIENCE_S)
        self._systemd.close()

    @property
    def folder(self) -> Path:
        """Where its records lie."""
        return self.station.records.folder / self.station.station


@contextmanager
def daemon(
    folder: Path,
    *,
    score: float = 0.25,
    max_parts: int = 0,
    engine_ms: float = 0,
    prefix: Sequence[str] = (),
    **changes: Any,
) -> Iterator[Daemon]:
    """A daemon that is ready, killed at the end of the block where it still runs. prefix: what runs its program."""
    made = Daemon(folder, score=score, max_parts=max_parts, engine_ms=engine_ms, prefix=prefix, **changes)
    try:
        made.wait_for("READY=1")
        yield made
    finally:
        made.close()


class Announced:
    """Collects results from the PUB socket of a daemon."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.subscribe(b"result.test")
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)

    def take(self, count: int) -> list[int]:
        """Sequence numbers of the next results."""
        seqs = []
        for _ in range(count):
            assert self._socket.poll(int(PATIENCE_S * 1000))
            seqs.append(json.loads(self._socket.recv_multipart()[1])["seq"])
        return seqs

    def rest(self) -> list[int]:
        """Sequence numbers of what has arrived, without waiting for more than a moment."""
        seqs = []
        while self._socket.poll(200):
            seqs.append(json.loads(self._socket.recv_multipart()[1])["seq"])
        return seqs


@pytest.fixture
def announced(context: zmq.Context[zmq.Socket[bytes]], closed_after: Keep) -> Callable[[str], Announced]:
    """Makes subscribers that are closed in the end."""
    return lambda endpoint: closed_after(Announced(context, endpoint))


def test_sigterm_ends_cleanly_with_everything_recorded(tmp_path: Path, announced: Callable[[str], Announced]) -> None:
    """READY, the watchdog fed, then SIGTERM: exit code 0, STOPPING, a record for each announced part, a summary."""
    with daemon(tmp_path, **UNHURRIED) as running:
        subscriber = announced(running.station.outputs.results)
        seqs = subscriber.take(30)
        running.wait_for("WATCHDOG=1")
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("STOPPING=1")
        code, log = running.end()
        seqs += subscriber.rest()
    assert code == 0
    assert {"ready", "stopped"} <= {line["event"] for line in log}
    with RecordReader(running.folder) as reader:
        recorded = [part.verdict.seq for part in reader.all()]
    assert recorded == list(range(1, len(recorded) + 1))
    assert set(seqs) <= set(recorded)
    stopped = next(line for line in log if line["event"] == "stopped")
    assert stopped["verdicts"]["PASS"] == len(recorded)


def test_after_kill_9_no_announced_number_comes_again(tmp_path: Path, announced: Callable[[str], Announced]) -> None:
    """SIGKILL in full run, then a new start: the numbers go on beyond every one that was announced."""
    with daemon(tmp_path) as first:
        subscriber = announced(first.station.outputs.results)
        before = subscriber.take(300)
        first.end(signal.SIGKILL)
        before += subscriber.rest()
    with daemon(tmp_path, max_parts=5) as second:
        code, _ = second.process.wait(PATIENCE_S), second.end()
    assert code == 0
    with RecordReader(first.folder) as reader:
        recorded = [part.verdict.seq for part in reader.all()]
    assert min(recorded[-5:]) > max(before)
    assert len(set(recorded)) == len(recorded)


def test_missed_results_come_from_the_records(tmp_path: Path) -> None:
    """A subscriber that was away asks and gets what it missed, the same messages; beyond the records it is told so."""
    with daemon(tmp_path) as running:
        endpoint = running.station.outputs.queries
        answer: dict[str, Any] = {"complete_to": 0}
        while answer["complete_to"] < 12:  # those that are not written yet
            answer, _ = ask(endpoint, {"ask": "results", "from_seq": 3, "to_seq": 12}, PATIENCE_S)
        beyond, _ = ask(endpoint, {"ask": "results", "from_seq": 5000, "to_seq": 6000}, PATIENCE_S)
        running.end()
    assert [result["seq"] for result in answer["results"]] == list(range(3, 13))
    assert answer["missing"] == []
    assert answer["complete_to"] == 12
    assert (beyond["results"], beyond["missing"], beyond["complete_to"], beyond["more"]) == ([], [], 4999, True)


def test_maps_status_and_nonsense_are_answered(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """A recent part's map comes as float32; anything malformed gets an error in words, and the daemon lives on."""
    with daemon(tmp_path, trigger={"period_ms": 50}) as running:
        endpoint = running.station.outputs.queries
        status = ask(endpoint, {"ask": "status"}, PATIENCE_S)[0]["status"]
        while not status["verdicts"]["PASS"]:
            status = ask(endpoint, {"ask": "status"}, PATIENCE_S)[0]["status"]
        header, data = ask(endpoint, {"ask": "map", "seq": status["verdicts"]["PASS"]}, PATIENCE_S)
        assert np.frombuffer(data, header["dtype"]).reshape(header["shape"]).shape == (32, 32)
        with pytest.raises(WireError, match="no anomaly map of part 999999"):
            ask(endpoint, {"ask": "map", "seq": 999_999}, PATIENCE_S)
        with context.socket(zmq.DEALER) as socket:
            socket.connect(endpoint)
            for frames in (
                [b"nonsense"],
                [b"", b'{"ask": "results", "from_seq": "x", "to_seq": 2}'],
                [b""],
                [b"x"] * 9,
            ):
                socket.send_multipart(frames)
            for _ in range(3):
                assert socket.poll(int(PATIENCE_S * 1000))
                assert json.loads(socket.recv_multipart()[-1])["answer"] == "error"
        assert ask(endpoint, {"ask": "status"}, PATIENCE_S)[0]["status"]["state"] == "running"
        code, _ = running.end()
        assert code == 0


def test_the_bridge_fetches_what_it_missed_and_hands_on_each_part_once(tmp_path: Path) -> None:
    """The example client, told that it has handled part 3, hands on 4, 5, 6, ... without gap or double."""
    with daemon(tmp_path, score=0.9) as running:
        outputs = running.station.outputs
        status: dict[str, Any] = {"last_seq": None}
        while (status["last_seq"] or 0) < 20:
            status = ask(outputs.queries, {"ask": "status"}, PATIENCE_S)[0]["status"]
        bridge = [sys.executable, str(ROOT / "tools" / "plc_bridge.py"), "--station", "test", "--last-seq", "3"]
        done = subprocess.run(
            [*bridge, "--results", outputs.results, "--queries", outputs.queries, "--max-parts", "600"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            cwd=ROOT,
        )
        running.end()
    results = [int(line.split()[0]) for line in done.stdout.splitlines() if "->" not in line]
    assert results[:60] == list(range(4, 64))
    assert any("-> reject" in line for line in done.stdout.splitlines())
    assert "schema" not in done.stderr


def test_the_commands_that_look_at_a_running_daemon(tmp_path: Path) -> None:
    """health says running, watch prints verdicts, records lists them, also as JSON; without a daemon health is 13."""
    with daemon(tmp_path, **UNHURRIED) as running:
        station = ["--station", str(running.path)]
        assert main(["health", *station, "--timeout", "30"]) == 0
        watched, listed, as_json = io.StringIO(), io.StringIO(), io.StringIO()
        with redirect_stdout(watched):
            assert main(["watch", *station, "--max-parts", "5"]) == 0
        running.end()
    assert watched.getvalue().count("PASS") == 5
    with redirect_stdout(listed):
        assert main(["records", *station, "--last", "5"]) == 0
    assert listed.getvalue().count("PASS") == 5
    with redirect_stdout(as_json):
        assert main(["records", *station, "--seq", "2..4", "--json"]) == 0
    assert [json.loads(line)["seq"] for line in as_json.getvalue().splitlines()] == [2, 3, 4]
    assert main(["health", *station, "--timeout", "0.2"]) == 13


def test_a_corrupt_database_is_refused_where_the_station_says_so(tmp_path: Path) -> None:
    """With `records.damaged: refuse`: exit code 8, one line that names the file, and the file as it was."""
    broken = tmp_path / "records" / "test" / "records.db"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no database " * 1000)
    made = Daemon(tmp_path, score=0.1, max_parts=1, records={"damaged": "refuse"})
    _, log = made.process.communicate(timeout=PATIENCE_S)
    made._systemd.close()
    assert made.process.returncode == 8
    assert log.count("\n") == 1
    assert str(broken) in log
    assert broken.read_bytes() == b"no database " * 1000


def test_good_parts_are_saved_and_nothing_is_overwritten(tmp_path: Path) -> None:
    """record saves located good parts with their metadata; a second time into the same folder is refused with 8."""
    path = tmp_path / "test.yaml"
    camera = {"kind": "simulated", "seed": 1, "pool": 20, "defect_share": 0.5}
    path.write_text(yaml.safe_dump(raw_settings(tmp_path, camera=camera)))
    out = tmp_path / "good"
    arguments = ["record", "--station", str(path), "--count", "6", "--out", str(out)]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(file.name for file in out.glob("*.png"))
    assert len({line["part_id"] for line in lines}) == 6
    assert {line["label"] for line in lines} == {"good"}
    assert all(line["pose"]["scale"] > 0 and line["source"].startswith("simulated:1/") for line in lines)
    assert main(arguments) == 8
    assert len(list(out.glob("*.png"))) == 6
