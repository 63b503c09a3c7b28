"""A subscriber that stops reading, a wall clock that jumps, SIGTERM in the middle of a part, SIGKILL."""

from __future__ import annotations

import signal
from collections.abc import Callable

import accounting
import pytest
import zmq
from faulting.board import Injection, Kind
from faulty_line import FaultyLine, until
from tiny_station import inspectd

Line = Callable[..., FaultyLine]
YEAR_S = 365 * 86_400.0


def test_a_subscriber_that_stops_reading_holds_nobody_up(line: Line, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """One of two subscribers reads nothing: the other one hears every result, and no verdict waits."""
    running = line()
    with context.socket(zmq.SUB) as idle:
        idle.set_hwm(1)
        idle.setsockopt(zmq.RCVBUF, 4096)
        idle.linger = 0
        idle.subscribe(b"")
        idle.connect(running.station.outputs.results)
        for _ in range(10):
            names = running.ask(30)
            running.results(names)
        assert running.status()["state"] in (
            "running",
            "degraded",
        )  # images of what was too much at once may be dropped
    triggers = len(running.heard.results)
    assert triggers == 300
    accounting.balance(running, triggers)


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_a_jump_of_the_wall_clock_changes_time_stamps_only(line: Line, jump_s: float) -> None:
    """A year forward or back: parts are judged before and after; latencies are what they were; records are kept."""
    running = line()
    assert running.reasons(3) == ["within_limits"] * 3
    running.control.inject(Injection(kind=Kind.CLOCK_JUMP, amount_s=jump_s))
    assert running.reasons(3) == ["within_limits"] * 3
    before, after = running.heard.results[2], running.heard.results[3]
    years = int(after["triggered_at"][:4]) - int(before["triggered_at"][:4])
    assert years == (1 if jump_s > 0 else -1)
    assert all(0 <= result["latency_ms"] < 10_000 for result in running.heard.results)
    running.wait_for_state("running")
    assert accounting.balance(running, 6) == 0
    stored = [part.verdict for part in running.records()]
    assert [verdict.seq for verdict in stored] == sorted(verdict.seq for verdict in stored)


def test_sigterm_in_the_middle_of_a_part_answers_it(line: Line) -> None:
    """A part is with the engine and others wait when SIGTERM comes: each gets its verdict and record; exit code 0."""
    running = line(line={"deadline_ms": 3000})
    assert running.reasons(1) == ["within_limits"]
    busy = running.control.arm(Injection(kind=Kind.ENGINE_SLOW, amount_s=0.5))
    running.ask(4)
    assert running.control.taken(busy) == 1
    until(lambda: running.metrics()["inspectd_triggers_total"] == 5, "all parts are taken in")
    assert running.end(signal.SIGTERM) == 0
    until(lambda: len(running.heard.results) == 5, "five results")
    accounting.on_topic_and_in_records(running, 5)
    assert "stopped" in running.events()
    assert running.heard.health[-1]["state"] == "stopped"


def test_after_sigkill_nothing_announced_is_lost_or_comes_twice(line: Line) -> None:
    """Killed with parts on their way, three times: all that was announced is recorded, once, with rising numbers."""
    running = line()
    highest = 0
    for turn in range(3):
        if turn:
            running.start()
        heard = len(running.heard.results)
        running.results(running.ask(10))
        slow = running.control.arm(Injection(kind=Kind.ENGINE_SLOW, amount_s=0.3))
        running.ask(10)
        assert running.control.taken(slow) == 1
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
        assert min(result["seq"] for result in running.heard.results[heard:]) > highest
        highest = max(result["seq"] for result in running.heard.results)
    running.start()
    assert running.reasons(1) == ["within_limits"]
    running.end()
    announced = [result["seq"] for result in running.heard.results]
    assert len(announced) == len(set(announced))
    recorded = [part.verdict.seq for part in running.records()]
    assert recorded == sorted(set(recorded))
    assert set(announced) <= set(recorded)
    assert len({result["part_id"] for result in running.heard.results}) == len(announced)
    verified = inspectd("records", "verify", "--station", str(running.settings), folder=running.folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
