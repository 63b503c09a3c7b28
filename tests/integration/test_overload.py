"""More parts than the engine can take, on the real daemon process: in time, newest first, and over at once."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pytest
import zmq
from closable import Keep
from line_values import free_port
from machine_stalls import MachineStalls
from test_daemon import PATIENCE_S, Daemon, daemon

from inspectd.messages import Outcome, Reason, Verdict
from inspectd.records.reading import RecordReader

ENGINE_MS = 30.0
DEADLINE_MS = 150.0
MARGIN_MS = 30.0
"""Generous: the machine that runs the tests may be busy with others."""
SUSTAINED_HZ = 1000 / ENGINE_MS
SECONDS = 2.5
MOST_GROWTH_MIB = 32
NS_PER_MS = 1e6


class Line:
    """Sends triggers as fast as it is told, hears every result."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], running: Daemon) -> None:
        self._triggers = context.socket(zmq.PUSH)
        self._triggers.linger = 0
        self._triggers.sndhwm = 0
        self._results = context.socket(zmq.SUB)
        self._results.rcvhwm = 0
        self._results.subscribe(b"result.test")
        self._results.subscribe(b"health.test")
        self._results.connect(running.station.outputs.results)
        assert running.station.trigger.endpoint is not None
        self._triggers.connect(running.station.trigger.endpoint)
        self._next(b"health")  # the subscription stands

    def offer(self, rate_hz: float, seconds: float, burst: int = 1) -> int:
        """Send triggers on a fixed schedule, `burst` at a time; returns how many."""
        parts = round(rate_hz * seconds)
        begun_s = time.monotonic()
        for index in range(0, parts, burst):
            time.sleep(max(0.0, begun_s + index / rate_hz - time.monotonic()))
            for _ in range(min(burst, parts - index)):
                self._triggers.send(b"{}")
        return parts

    def results(self, count: int) -> list[dict[str, object]]:
        """The next results."""
        return [self._next(b"result") for _ in range(count)]

    def rest(self) -> list[dict[str, object]]:
        """What else comes within a moment."""
        found = []
        while self._results.poll(300):
            topic, body = self._results.recv_multipart()
            if topic.startswith(b"result"):
                found.append(json.loads(body))
            elif found or topic.startswith(b"health"):
                break
        return found

    def close(self) -> None:
        """Close both sockets."""
        self._triggers.close()
        self._results.close(linger=0)

    def _next(self, kind: bytes) -> dict[str, object]:
        while self._results.poll(int(PATIENCE_S * 1000)):
            topic, body = self._results.recv_multipart()
            if topic.startswith(kind):
                return dict(json.loads(body))
        raise TimeoutError(f"nothing on {kind.decode()}")


@pytest.fixture
def line(context: zmq.Context[zmq.Socket[bytes]], closed_after: Keep) -> Callable[[Daemon], Line]:
    """Makes lines that are closed in the end."""
    return lambda running: closed_after(Line(context, running))


def recorded(running: Daemon) -> list[Verdict]:
    """Every verdict in the records of a daemon that has ended."""
    with RecordReader(running.folder) as reader:
        return [part.verdict for part in reader.all()]


def overloaded(folder: Path, **trigger: object) -> dict[str, object]:
    """Settings of a station that is offered more than it can take, and keeps few images."""
    return {
        "line": {"deadline_ms": DEADLINE_MS, "margin_ms": MARGIN_MS},
        "trigger": {"source": "zmq", "endpoint": f"tcp://127.0.0.1:{free_port()}", **trigger},
    }


@pytest.mark.parametrize(("factor", "burst"), [(2, 1), (5, 1), (5, 12)])
def test_overload_is_answered_in_time(
    tmp_path: Path, line: Callable[[Daemon], Line], factor: float, burst: int
) -> None:
    """2 and 5 times what the engine sustains, evenly and in bursts: each part answered once and in time, the engine
    busy with parts that make it, the newest first; memory bounded; the very next part afterwards is inspected."""
    with MachineStalls() as stalls, daemon(tmp_path, engine_ms=ENGINE_MS, **overloaded(tmp_path)) as running:
        made = line(running)
        made.offer(SUSTAINED_HZ / 2, 1.0)
        made.results(round(SUSTAINED_HZ / 2))
        process = psutil.Process(running.process.pid)
        before_mib = process.memory_info().rss / 2**20
        parts = made.offer(factor * SUSTAINED_HZ, SECONDS, burst)
        heard = made.results(parts)
        grown_mib = process.memory_info().rss / 2**20 - before_mib
        made.offer(1, 1)
        made.results(1)
        code, _ = running.end()
    assert code == 0
    assert grown_mib < MOST_GROWTH_MIB
    warm = round(SUSTAINED_HZ / 2)
    verdicts = recorded(running)
    assert len(verdicts) == warm + parts + 1
    after = verdicts[-1]
    assert after.outcome is Outcome.PASS or stalls.within(after.trigger_ns, after.verdict_ns)
    undisturbed = [verdict for verdict in verdicts if not stalls.within(verdict.trigger_ns, verdict.verdict_ns)]
    assert all(verdict.verdict_ns < verdict.deadline_ns for verdict in undisturbed)
    assert all(verdict.verdict_ns < verdict.deadline_ns or verdict.outcome is Outcome.INVALID for verdict in verdicts)
    assert sorted(result["seq"] for result in heard) == [verdict.seq for verdict in verdicts[warm:-1]]
    judged = [verdict for verdict in verdicts[warm:-1] if verdict.outcome is Outcome.PASS]
    reasons = Counter(verdict.reason for verdict in verdicts[warm:-1])
    assert set(reasons) <= {Reason.WITHIN_LIMITS, Reason.OVERLOAD, Reason.LATE}, reasons
    assert sum(verdict.reason is Reason.LATE for verdict in undisturbed) <= 0.1 * parts, reasons
    busy_ns = sum(verdict.scored_ns - verdict.located_ns for verdict in judged)
    begun_ns, ended_ns = min(verdict.captured_ns for verdict in judged), max(verdict.scored_ns for verdict in judged)
    assert busy_ns >= 0.7 * (ended_ns - begun_ns - stalls.within(begun_ns, ended_ns))
    waited_ms = median((verdict.scored_ns - verdict.trigger_ns) / NS_PER_MS for verdict in judged)
    assert waited_ms < 0.6 * DEADLINE_MS
