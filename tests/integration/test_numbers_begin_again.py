"""Another run of numbers, with real daemons and the example bridge: a new records folder is told from a restart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from line_values import free_port
from test_daemon import PATIENCE_S, ROOT, Daemon, daemon
from test_hostile_clients import status

from inspectd.wire.client import ask

Context = zmq.Context[zmq.Socket[bytes]]


@contextmanager
def line(folder: Path, context: Context, parts: int) -> Iterator[Daemon]:
    """A daemon that has judged so many parts, each of which was asked for; records and settings lie in `folder`."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    changes: dict[str, Any] = {
        "line": {"deadline_ms": 30_000},
        "trigger": {"source": "zmq", "endpoint": endpoint},
    }
    with daemon(folder, **changes) as running, context.socket(zmq.PUSH) as source:
        source.linger = 0
        source.connect(str(running.station.trigger.endpoint))
        for _ in range(parts):
            source.send(b"{}")
        while sum(status(running)["verdicts"].values()) < parts:
            pass
        yield running
        assert running.end()[0] == 0


def bridge(running: Daemon, parts: int, *arguments: str) -> tuple[list[int], str]:
    """The numbers that a bridge hands on until there are so many, and what it says."""
    outputs = running.station.outputs
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "tools" / "plc_bridge.py"), "--station", "test", *arguments),
            *("--results", outputs.results, "--queries", outputs.queries, "--max-parts", str(parts)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        cwd=ROOT,
    )
    return [int(told.split()[0]) for told in done.stdout.splitlines() if "->" not in told], done.stderr


def test_a_restart_keeps_the_run_and_a_new_folder_makes_another(tmp_path: Path, context: Context) -> None:
    """The bridge goes on after its number within a run; in another it says so and begins with the first part."""
    with line(tmp_path, context, 3) as first:
        run = status(first)["run"]
    with line(tmp_path, context, 1) as again:
        assert status(again)["run"] == run
        assert bridge(again, 1, "--last-seq", "3", "--run", run)[0] == [4]
    shutil.rmtree(first.folder)
    with line(tmp_path, context, 2) as renewed:
        assert status(renewed)["run"] != run
        handed_on, said = bridge(renewed, 2, "--last-seq", "4", "--run", run)
    assert handed_on == [1, 2]
    assert "numbers begin again" in said


def test_files_of_the_run_go_alone_and_numbers_still_tell(tmp_path: Path, context: Context) -> None:
    """Numbers that go on stay in their run; numbers that begin again are in another, whichever files were left."""
    with line(tmp_path, context, 2) as first:
        run = status(first)["run"]
    (first.folder / "sequence").unlink()
    with line(tmp_path, context, 0) as without_sequence:
        assert (status(without_sequence)["run"], status(without_sequence)["last_seq"]) == (run, 2)
    for left in first.folder.iterdir():
        if left.is_file() and left.name != "run":
            left.unlink()
    with line(tmp_path, context, 1) as begun_again:
        assert status(begun_again)["last_seq"] == 1
        assert status(begun_again)["run"] != run


def test_every_message_names_the_run(tmp_path: Path, context: Context) -> None:
    """Results, rejects, health, every kind of answer, and what `inspectd records` prints as JSON."""
    settings: dict[str, Any] = {"line": {"deadline_ms": 30_000}, "trigger": {"period_ms": 20}}
    with daemon(tmp_path, score=0.9, **settings) as running, context.socket(zmq.SUB) as topics:
        topics.subscribe(b"")
        topics.connect(running.station.outputs.results)
        queries, told = running.station.outputs.queries, {}
        while {"result.test", "reject.test", "health.test"} - told.keys():
            assert topics.poll(int(PATIENCE_S * 1000))
            topic, body = topics.recv_multipart()
            told[topic.decode()] = json.loads(body)
        run = status(running)["run"]
        answers = []
        for question in (
            {"ask": "status"},
            {"ask": "challenge", "names": ["crack"], "by": "a test", "patience_s": 1},
        ):
            answers.append(ask(queries, question, PATIENCE_S)[0])
        while not answers[-1].get("results"):  # those that are not written yet
            answers.append(ask(queries, {"ask": "results", "from_seq": 1, "to_seq": 3}, PATIENCE_S)[0])
        with context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.connect(queries)
            socket.send(b"nonsense")
            assert socket.poll(int(PATIENCE_S * 1000))
            answers.append(json.loads(socket.recv()))
        running.end()
    assert [message["run"] for message in told.values()] == [run] * len(told)
    assert [answer["run"] for answer in answers] == [run] * len(answers)
    assert answers[-1]["answer"] == "error"
    assert [answer["status"]["run"] for answer in answers if answer["answer"] == "status"] == [run]
    recorded = [result for answer in answers for result in answer.get("results", [])]
    assert recorded
    assert all(result["run"] == run for result in recorded)
    printed = subprocess.run(
        [sys.executable, "-m", "inspectd", "records", "--station", str(running.path), "--last", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(printed.stdout.splitlines()[0])["run"] == run
