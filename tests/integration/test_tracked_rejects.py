"""Rejects tracked to their actuator: the daemon as a process, triggers and counts from outside, what a PLC is told."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zmq
from closable import Keep
from jsonschema import Draft202012Validator
from line_values import free_port
from test_daemon import PATIENCE_S, ROOT, Daemon, daemon

from inspectd.messages import Command
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart
from inspectd.tracking import KILLED, STOPPED
from inspectd.wire.client import ask
from inspectd.wire.public import schema

Context = zmq.Context[zmq.Socket[bytes]]
Message = dict[str, Any]
BAD = 0.9
DELAY = {"by": "delay", "delay_ms": 1000, "window_ms": 15, "lead_ms": 5}
HELD = {**DELAY, "window_ms": 5000, "send": "at_window"}  # wide: a machine that stalls may not miss it
ENCODER = {"by": "encoder", "distance_counts": 4000, "window_counts": 4000, "modulus": 65536}


class Line:
    """What stands around the daemon: the trigger source, and a PLC that hears every topic."""

    def __init__(self, context: Context, running: Daemon) -> None:
        self._plc = context.socket(zmq.SUB)
        self._plc.subscribe(b"")
        self._plc.reconnect_ivl = 500  # half a second to a whole one after a kill: a client that is in no hurry
        self._plc.connect(running.station.outputs.results)
        self._source = context.socket(zmq.PUSH)
        self._source.linger = 0
        if running.station.trigger.endpoint is not None:
            self._source.connect(running.station.trigger.endpoint)
        self.next("health")  # the subscription stands

    def send(self, **message: Any) -> None:
        """One trigger or position message."""
        self._source.send(json.dumps(message).encode())

    def next(self, *topics: str) -> Message:
        """The next message on one of the topics, checked against its schema. Health alone is no sign of it."""
        until = time.monotonic() + PATIENCE_S
        while self._plc.poll(max(0, int(1000 * (until - time.monotonic())))):
            name, body = self._plc.recv_multipart()
            topic = name.decode().partition(".")[0]
            if topic in topics:
                message: Message = json.loads(body)
                Draft202012Validator(schema(topic)).validate(message)
                return message
        raise TimeoutError(topics)

    def close(self) -> None:
        """Close the sockets."""
        self._plc.close(linger=0)
        self._source.close(linger=0)


@pytest.fixture
def line(context: Context, closed_after: Keep) -> Callable[[Daemon], Line]:
    """Makes lines that are closed in the end."""
    return lambda running: closed_after(Line(context, running))


def by_messages() -> dict[str, Any]:
    """Triggers from outside."""
    return {"source": "zmq", "endpoint": f"tcp://127.0.0.1:{free_port()}"}


def after_ms(message: Message, moment: str) -> float:
    """From the part's trigger to a moment of its window."""
    start, end = message["triggered_at"], (message.get("window") or message["reject"])[moment]
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1e3


def recorded(running: Daemon) -> dict[str, StoredPart]:
    """The records by the part's name."""
    with RecordReader(running.folder) as reader:
        return {part.verdict.part_id: part for part in reader.all()}


def test_by_delay_each_reject_carries_its_window(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """Window, width and remaining time are told before the result; result and record say the same; none is missed."""
    with daemon(
        tmp_path,
        score=BAD,
        line={"deadline_ms": 390},
        trigger={"source": "timer", "period_ms": 20},
        tracking=DELAY,
    ) as running:
        around = line(running)
        told = {}
        for _ in range(10):
            reject = around.next("reject")
            result = around.next("result")
            assert result["seq"] == reject["seq"]
            assert result["reject"]["command"] == "scheduled"
            assert after_ms(reject, "opens_at") == after_ms(result, "opens_at") == 1000
            window = reject["window"]
            assert window["closes_in_ms"] - window["opens_in_ms"] == pytest.approx(15, abs=0.01)
            assert window["opens_in_ms"] <= 1000 - result["latency_ms"]
            assert window["from_count"] is window["neighbour"] is None
            told[result["part_id"]] = result
        again, _ = ask(
            running.station.outputs.queries,
            {"ask": "results", "from_seq": result["seq"] - 5, "to_seq": result["seq"] - 4},
            PATIENCE_S,
        )
        code, _log = running.end()
    assert code == 0
    assert [told[message["part_id"]] for message in again["results"]] == again["results"]
    parts = recorded(running)
    for name in told:
        reject_row = parts[name].verdict.reject
        assert reject_row is not None
        assert reject_row.opens_ns == parts[name].verdict.trigger_ns + 1_000_000_000


def test_a_part_that_has_gone_by_is_reported_and_not_rejected(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """The command of a trigger that comes more than a second old goes to `missed`; health, log and record say so."""
    with daemon(tmp_path, score=BAD, line={"deadline_ms": 390}, trigger=by_messages(), tracking=DELAY) as running:
        around = line(running)
        around.send(part_id="old", age_ms=1100)
        around.send(part_id="new")
        first, second = around.next("reject", "missed"), around.next("reject", "missed")
        assert (first["schema"], first["part_id"]) == ("inspectd.missed", "old")
        assert "after its window" in first["detail"]
        assert (second["schema"], second["part_id"]) == ("inspectd.reject", "new")
        health = around.next("health")
        while not health["counts"]["rejects_missed"]:
            health = around.next("health")
        _code, log = running.end()
    assert health["state"] == "degraded"
    assert health["why"] == [
        "1 triggers were too old for their deadline when they came so far: see their age_ms",
        "1 parts to be rejected could not be reached in time so far",
    ]
    (line_,) = [entry for entry in log if entry["event"] == "reject missed: the part goes on"]
    assert (line_["part_id"], line_["why"]) == ("old", first["detail"])
    old = recorded(running)["old"].verdict.reject
    assert old is not None
    assert (old.command, old.detail) == (Command.MISSED, first["detail"])


def test_by_encoder_the_window_is_told_in_counts_and_in_time(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """Counts across the wrap, times once the belt's motion is known; what has passed, or has no count, is missed."""
    with daemon(tmp_path, score=BAD, line={"deadline_ms": 300}, trigger=by_messages(), tracking=ENCODER) as running:
        around = line(running)
        around.send(part_id="unknown speed", encoder=65_000, age_ms=11_000)
        unknown = around.next("reject", "missed")
        for age_ms in range(1_000, -1, -100):  # a second of a belt's motion, one count per ms
            around.send(position=(75_000 - age_ms) % 65_536, age_ms=age_ms)
        around.send(part_id="moving", encoder=75_000 % 65_536)
        around.send(part_id="gone by", encoder=75_000 % 65_536 - 8_500, age_ms=8_500)
        around.send(part_id="blind")
        told = {"unknown speed": unknown}
        for _ in range(3):
            message = around.next("reject", "missed")
            told[message["part_id"]] = message
        running.end()
    assert {name: message["schema"].removeprefix("inspectd.") for name, message in told.items()} == {
        "unknown speed": "reject",
        "moving": "reject",
        "gone by": "missed",
        "blind": "missed",
    }
    window, moving = unknown["window"], told["moving"]["window"]
    assert (window["from_count"], window["to_count"]) == (69_000 % 65_536, 73_000 % 65_536)
    assert window["opens_at"] is window["opens_in_ms"] is None
    assert (moving["from_count"], moving["to_count"]) == (13_464, 17_464)
    assert after_ms(told["moving"], "opens_at") == pytest.approx(4000, rel=0.25)
    assert after_ms(told["moving"], "closes_at") == pytest.approx(8000, rel=0.25)
    assert "counts past its window" in told["gone by"]["detail"]
    assert told["blind"]["detail"] == "its trigger carried no encoder count"
    assert recorded(running)["moving"].verdict.encoder == 9_464


def test_held_commands_leave_at_their_time_and_are_recorded(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """With at_window the result comes first, as held; the command follows when its window is the lead away."""
    with daemon(
        tmp_path,
        score=BAD,
        line={"deadline_ms": 200},
        trigger=by_messages(),
        tracking={**HELD, "delay_ms": 400, "lead_ms": 50},
    ) as running:
        around = line(running)
        around.send(part_id="held")
        result, reject = around.next("result", "reject"), around.next("result", "reject")
        running.end()
    assert (result["schema"], result["reject"]["command"]) == ("inspectd.result", "held")
    assert (reject["schema"], reject["part_id"]) == ("inspectd.reject", "held")
    assert reject["window"]["opens_in_ms"] <= 50
    part = recorded(running)["held"]
    assert part.verdict.reject is not None
    assert part.told is not None
    assert (part.verdict.reject.command, part.told.reject.command) == (Command.HELD, Command.SCHEDULED)
    assert part.told.told_ns >= part.verdict.trigger_ns + 350_000_000


def test_the_end_waits_for_what_is_held_and_reports_the_rest(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """SIGTERM with held commands: one whose window is near leaves in its time, never before; the others are missed."""
    tracking = {**HELD, "delay_ms": 20_000}
    with daemon(tmp_path, score=BAD, trigger=by_messages(), tracking=tracking) as running:
        around = line(running)
        around.send(part_id="near", age_ms=18_800)
        around.send(part_id="far")
        for _ in range(2):
            assert around.next("result")["reject"]["command"] == "held"
        running.process.send_signal(signal.SIGTERM)
        told = [around.next("reject", "missed") for _ in range(2)]
        code, _log = running.end()
    assert code == 0
    assert [(each["schema"], each["part_id"]) for each in told] == [
        ("inspectd.reject", "near"),
        ("inspectd.missed", "far"),
    ]
    assert told[0]["window"]["opens_in_ms"] <= 5
    assert told[1]["detail"] == STOPPED
    assert [part.told.reject.command for part in recorded(running).values() if part.told is not None] == [
        Command.SCHEDULED,
        Command.MISSED,
    ]


def test_the_bridge_shows_the_schedule(tmp_path: Path) -> None:
    """The example client prints when to act on each reject, and for how long."""
    trigger = {"source": "timer", "period_ms": 20}
    with daemon(tmp_path, score=BAD, line={"deadline_ms": 390}, trigger=trigger, tracking=DELAY) as running:
        outputs = running.station.outputs
        done = subprocess.run(
            [
                *(sys.executable, str(ROOT / "tools" / "plc_bridge.py"), "--station", "test", "--max-parts", "25"),
                *("--results", outputs.results, "--queries", outputs.queries),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            cwd=ROOT,
        )
        running.end()
    assert re.search(r"-> reject in \d+\.\d ms for 15\.0 ms$", done.stdout, re.MULTILINE)
    assert "schema" not in done.stderr


def test_what_a_killed_daemon_held_is_reported_by_the_next(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """SIGKILL with a command held: a client that was there before hears `missed`, once; log, record and answers say so.

    A start that ends before clients have had the time to come back leaves it to the next one.
    """
    tracking = {**HELD, "delay_ms": 60_000}
    with daemon(tmp_path, score=BAD, trigger=by_messages(), tracking=tracking) as running:
        around = line(running)
        around.send(part_id="held")
        held = around.next("result")
        assert held["reject"]["command"] == "held"
        running.end(signal.SIGKILL)
    with daemon(tmp_path, score=BAD) as running:
        logged = missed_parts(running.end()[1])
    with daemon(tmp_path, score=BAD) as running:
        told = around.next("missed")
        answer: Message = {"results": [held]}
        while answer["results"] == [held]:  # recorded a moment after it was told
            question = {"ask": "results", "from_seq": held["seq"], "to_seq": held["seq"]}
            answer, _ = ask(running.station.outputs.queries, question, PATIENCE_S)
        logged += missed_parts(running.end()[1])
    with RecordReader(running.folder) as reader:
        assert reader.untold() == []  # nothing is left for another start
    assert (told["part_id"], told["detail"]) == ("held", KILLED)
    assert logged == ["held"]
    assert answer["results"] == [{**held, "reject": {**held["reject"], "command": "missed", "detail": KILLED}}]
    row = recorded(running)["held"].told
    assert row is not None
    assert (row.reject.command, row.reject.detail) == (Command.MISSED, KILLED)


def missed_parts(log: list[dict[str, Any]]) -> list[str]:
    """The parts that a run said to have gone on."""
    return [entry["part_id"] for entry in log if entry["event"] == "reject missed: the part goes on"]


def test_a_flood_of_positions_costs_no_part(tmp_path: Path, line: Callable[[Daemon], Line]) -> None:
    """Positions as fast as they can be sent: every trigger among them is answered and tracked, health stays good."""
    with daemon(tmp_path, score=BAD, trigger=by_messages(), tracking=ENCODER) as running:
        around = line(running)
        for part in range(10):
            for count in range(2_000):
                around.send(position=100 * part + count // 20)
            around.send(part_id=f"A-{part}", encoder=100 * (part + 1))
        told = [around.next("reject", "missed") for _ in range(10)]
        health = around.next("health")
        code, _log = running.end()
    assert code == 0
    assert sorted(each["part_id"] for each in told) == [f"A-{part}" for part in range(10)]
    assert {each["schema"] for each in told} == {"inspectd.reject"}
    assert (health["state"], health["counts"]["stage_errors"]) == ("running", 0)
