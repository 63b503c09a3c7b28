"""The example bridge as a process, over real sockets, beside a daemon that says what the test tells it to say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import pytest
import zmq
from closable import Keep
from line_values import BUNDLE_HASH, RUN, free_port, verdict
from test_daemon import PATIENCE_S, ROOT

from inspectd.health.heartbeat import Heartbeat
from inspectd.health.meters import Meters
from inspectd.messages import Outcome, Verdict
from inspectd.wire.public import Json, reject, result, to_bytes
from inspectd.wire.questions import AskResults, answer_results

Context = zmq.Context[zmq.Socket[bytes]]


def rejected(seq: int) -> Verdict:
    """A verdict whose deadline no slow machine reaches."""
    made = verdict(seq, Outcome.REJECT)
    return replace(made, deadline_ns=made.trigger_ns + round(PATIENCE_S * 1e9))


class Station:
    """A daemon's two sockets, and the bridge that follows them."""

    def __init__(self, context: Context) -> None:
        self._topics, self._queries = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        self._topics.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._subscribed: set[bytes] = set()
        endpoints = []
        for socket in (self._topics, self._queries):
            socket.linger = 0
            endpoints.append(f"tcp://127.0.0.1:{free_port()}")
            socket.bind(endpoints[-1])
        self._bridge = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "tools" / "plc_bridge.py"), "--station", "test"),
                *("--results", endpoints[0], "--queries", endpoints[1], "--max-parts", "3"),
            ],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def wait_until_followed(self) -> None:
        """Rejects are subscribed to first, results once those are heard."""
        self._wait_for_subscription("reject", "missed", "health")
        heartbeat = Heartbeat(Meters(), station="test", bundle_hash=BUNDLE_HASH, engine="none", patience_s={}, run=RUN)
        self.publish("health", heartbeat.message())
        self._wait_for_subscription("result")

    def publish(self, name: str, message: Json) -> None:
        """Announce."""
        self._topics.send_multipart([f"{name}.test".encode(), to_bytes(message)])

    def question(self, patience_s: float = PATIENCE_S) -> tuple[list[bytes], AskResults] | None:
        """The next question for results, and whom to answer; None where none comes."""
        if not self._queries.poll(round(patience_s * 1000)):
            return None
        *envelope, body = self._queries.recv_multipart()
        asked = json.loads(body)
        return envelope, AskResults(asked["from_seq"], asked["to_seq"])

    def answer(self, to: tuple[list[bytes], AskResults] | None, *results: Json) -> None:
        """Answer a question that must have come; everything up to its last number is recorded."""
        assert to is not None
        envelope, asked = to
        said = answer_results(results, asked, RUN, complete_to=asked.to_seq)
        self._queries.send_multipart([*envelope, to_bytes(said)])

    def line(self, patience_s: float = PATIENCE_S) -> str:
        """The next line that the bridge prints, empty where none comes."""
        try:
            return self._lines.get(timeout=patience_s)
        except Empty:
            return ""

    def end(self) -> tuple[int, str]:
        """Wait for the bridge's own end; its exit code and what it complained about."""
        assert self._bridge.stderr is not None
        complaints = self._bridge.stderr.read()
        return self._bridge.wait(PATIENCE_S), complaints

    def close(self) -> None:
        """Kill the bridge where it still runs, and close everything."""
        self._bridge.kill()
        self._reader.join(PATIENCE_S)
        self._bridge.communicate(timeout=PATIENCE_S)
        self._topics.close()
        self._queries.close()

    def _read(self) -> None:
        assert self._bridge.stdout is not None
        for line in self._bridge.stdout:
            self._lines.put(line)

    def _wait_for_subscription(self, *names: str) -> None:
        wanted = {f"\1{name}.test".encode() for name in names}
        end_s = time.monotonic() + PATIENCE_S
        while not wanted <= self._subscribed:
            assert self._topics.poll(max(0, round((end_s - time.monotonic()) * 1000))), "the bridge does not subscribe"
            self._subscribed.add(self._topics.recv())


@pytest.fixture
def station(context: Context, closed_after: Keep) -> Station:
    """A daemon whose rejects and results the bridge follows."""
    made = closed_after(Station(context))
    made.wait_until_followed()
    return made


def numbers(lines: list[str]) -> list[Any]:
    """What was printed: a result as its number, a reject as its number and an arrow."""
    return [f"{line.split()[0]} ->" if "->" in line else int(line.split()[0]) for line in lines]


def test_a_question_that_nobody_answers_holds_up_no_reject(station: Station) -> None:
    """While the bridge waits for what it missed, a reject passes; results follow in order once there is an answer."""
    for seq in (1, 3):
        station.publish("result", result(rejected(seq), RUN))
    assert station.question() is not None
    station.publish("reject", reject(rejected(4), time.monotonic_ns(), RUN))
    lines = [station.line(), station.line()]
    assert numbers(lines) == [1, "4 ->"]
    while len(lines) < 4:
        if (asked := station.question(0.1)) is not None:
            station.answer(asked, result(rejected(2), RUN))
        if line := station.line(0.1):
            lines.append(line)
    assert numbers(lines) == [1, "4 ->", 2, 3]


def test_a_part_that_is_judged_late_is_not_lost(station: Station) -> None:
    """The records do not know it however often they are asked: its result comes in the end, and counts."""
    for seq in (1, 3):
        station.publish("result", result(rejected(seq), RUN))
    for _ in range(3):
        station.answer(station.question())
    station.publish("result", result(rejected(2), RUN))
    assert numbers([station.line() for _ in range(3)]) == [1, 2, 3]
    code, complaints = station.end()
    assert code == 0
    assert "no record" not in complaints
