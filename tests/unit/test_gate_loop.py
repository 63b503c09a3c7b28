"""GateLoop: what happens between the gate's stamp and the hand-out, on a clock that jumps in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event
from types import SimpleNamespace
from typing import Any, Literal

import jsonschema
import pytest
import zmq
from closable import Keep
from line_values import BUNDLE_HASH, LIMITS, MS, RUN, fault, scores, trigger
from structlog.testing import capture_logs

from inspectd import gate_loop
from inspectd.gate import Gate
from inspectd.gate_loop import GateLoop
from inspectd.health.heartbeat import Heartbeat, State
from inspectd.health.meters import Count, Meters
from inspectd.messages import Command, Fault, LateScores, Reason, Record, Scores, Verdict
from inspectd.outputs.topics import Topics
from inspectd.tracking import ByDelay, Tracker
from inspectd.wire.public import from_bytes, schema
from inspectd.wire.sockets import pull, push, receive, send

TRIGGER = trigger(at_ms=1, deadline_ms=49)
HELD_UP_MS = 20


@dataclass
class Line:
    """A loop whose notes take `note_ms` of a clock of its own; what it wrote down, sent and recorded."""

    meters: Meters
    clock: SimpleNamespace
    inbox: Any
    rows: Any
    note_ms: list[float]
    loop: GateLoop = field(init=False)
    noted: list[Verdict] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def note(self, record: Record) -> None:
        """Write down, and let the clock go on."""
        self.noted.append(record.verdict)
        self.clock.now_ns += round((self.note_ms.pop(0) if self.note_ms else 0) * MS)

    def announce(self, messages: Sequence[Sequence[bytes]]) -> None:
        """Read what is told to those outside, by the published schemas."""
        for topic, content in messages:
            name = topic.split(b".")[0].decode()
            message = from_bytes(content, f"inspectd.{name}")
            jsonschema.validate(message, schema(name))
            self.sent.append(message)

    def judge(self, cause: Scores | Fault, *, at_ms: float) -> None:
        """One part: its trigger at 1 ms, its scores or fault at `at_ms`."""
        self.clock.now_ns = round(at_ms * MS)
        for message in (TRIGGER, cause):
            assert send(self.inbox, message)
        self.loop.step()

    def recorded(self) -> list[object]:
        """The rows that went to the database."""
        found: list[object] = []
        while (row := receive(self.rows)) is not None:
            found.append(row)
        return found


@pytest.fixture
def make_line(context: zmq.Context[zmq.Socket[bytes]], closed_after: Keep, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a line: what it does with the invalid, how it tracks, how long its notes take."""

    def make(
        *note_ms: float, invalid: Literal["accept", "reject", "stop"] = "reject", tracker: Tracker | None = None
    ) -> Line:
        clock = SimpleNamespace(now_ns=0)
        fake_time = SimpleNamespace(monotonic_ns=lambda: clock.now_ns)
        monkeypatch.setattr(gate_loop, "time", fake_time)
        meters = Meters()
        inbox, rows, _ = (closed_after(pull(context, f"inproc://{name}")) for name in ("gate", "rows", "images"))
        to_gate, to_rows, to_images = (
            closed_after(push(context, f"inproc://{name}", 100)) for name in ("gate", "rows", "images")
        )
        topics = Topics(closed_after(context.socket(zmq.PUB)), "test", RUN)
        line = Line(meters, clock, to_gate, rows, list(note_ms))
        line.loop = GateLoop(
            Gate(thresholds=LIMITS, bundle_hash=BUNDLE_HASH, invalid_action=invalid),
            inbox=inbox,
            rows=to_rows,
            images=to_images,
            note=line.note,
            tracker=tracker or Tracker(None),
            prepare=topics.messages,
            announce=line.announce,
            tell_reject=topics.tell_reject,
            keep_image=lambda verdict: False,
            keep_map=lambda seq, anomaly_map: None,
            margin_ns=2 * MS,
            meters=meters,
        )
        return line

    return make


def test_a_verdict_that_is_not_held_up_leaves_as_it_was_decided(make_line: Any) -> None:
    """Noted once, announced once, in time; nothing is logged, and health is as it was."""
    line = make_line(3)
    with capture_logs() as logged:
        line.judge(scores(), at_ms=10)
    (result,) = line.sent
    assert (result["verdict"], result["in_time"]) == ("PASS", True)
    assert [verdict.verdict_ns for verdict in line.noted] == [10 * MS]
    assert logged == []
    assert line.meters.counts()[Count.DEADLINES_MISSED] == 0


@pytest.mark.parametrize(("invalid", "topics"), [("reject", ["reject", "result"]), ("accept", ["result"])])
def test_a_pass_held_up_past_its_deadline_never_leaves(make_line: Any, invalid: str, topics: list[str]) -> None:
    """It is INVALID (late), marked, noted again, recorded so, with its scores as late ones, counted and logged."""
    line = make_line(HELD_UP_MS, invalid=invalid)
    with capture_logs() as logged:
        line.judge(scores(part_score=0.25), at_ms=45)
    assert [message["schema"] for message in line.sent] == [f"inspectd.{name}" for name in topics]
    assert {(message["verdict"], message["reason"], message["in_time"]) for message in line.sent} == {
        ("INVALID", "late", False)
    }
    result = line.sent[-1]
    assert (result["action"], result["part_score"], result["latency_ms"]) == (invalid, None, 64.0)
    assert "15.0 ms after the deadline" in result["detail"]
    assert [verdict.outcome.value for verdict in line.noted] == ["PASS", "INVALID"]
    record, late = line.recorded()
    assert isinstance(record, Record)
    assert record.verdict == line.noted[-1]
    assert isinstance(late, LateScores)
    assert late.part_score == 0.25
    (entry,) = logged
    assert (entry["part"], entry["verdict"], entry["late_ms"]) == ("p1", "INVALID", 15.0)
    assert line.meters.counts()[Count.DEADLINES_MISSED] == 1
    assert line.meters.outcomes() == {"PASS": 0, "REJECT": 0, "INVALID": 1}


@pytest.mark.parametrize(
    ("cause", "said"),
    [(scores(part_score=0.9), ("REJECT", "over_threshold", 0.9)), (fault(), ("INVALID", "no_part", None))],
)
def test_what_is_no_pass_keeps_its_verdict_and_says_that_it_is_late(
    make_line: Any, cause: Scores | Fault, said: tuple[str, str, float | None]
) -> None:
    """A bad part stays known as bad; result and reject signal are marked; the record says when it left."""
    line = make_line(HELD_UP_MS)
    line.judge(cause, at_ms=45)
    signal, result = line.sent
    assert (result["verdict"], result["reason"], result["part_score"]) == said
    assert (signal["in_time"], result["in_time"]) == (False, False)
    (record,) = line.recorded()
    assert isinstance(record, Record)
    assert (record.verdict, record.verdict.verdict_ns) == (line.noted[-1], 65 * MS)


def test_a_reject_held_up_until_its_window_has_closed_is_missed(make_line: Any) -> None:
    """A tracked part that has passed its actuator meanwhile is reported, and no command is sent after it."""
    tracker = Tracker(ByDelay(delay_ns=40 * MS, window_ns=15 * MS))
    line = make_line(HELD_UP_MS, tracker=tracker)
    line.judge(scores(part_score=0.9), at_ms=45)
    missed, result = line.sent
    assert missed["schema"] == "inspectd.missed"
    assert (result["reject"]["command"], tracker.missed) == (Command.MISSED.value, 1)


def test_an_answer_that_came_too_late_to_begin_with_is_noted_once(make_line: Any) -> None:
    """Scores read after the deadline: INVALID (late) as ever, and the result says that it left late."""
    line = make_line()
    line.judge(scores(), at_ms=60)
    assert [verdict.reason for verdict in line.noted] == [Reason.LATE]
    assert line.sent[-1]["in_time"] is False


def test_a_part_given_up_before_its_deadline_is_in_time(make_line: Any) -> None:
    """Nothing heard by the deadline less the margin: INVALID (late) leaves in time."""
    line = make_line()
    line.clock.now_ns = 48 * MS
    assert send(line.inbox, TRIGGER)
    line.loop.step()
    assert (line.sent[-1]["reason"], line.sent[-1]["in_time"]) == ("late", True)


def test_health_is_degraded_for_a_while(make_line: Any) -> None:
    """One verdict that left late needs a person, though it stalls nothing."""
    line = make_line(HELD_UP_MS)
    heartbeat = Heartbeat(line.meters, station="test", bundle_hash=BUNDLE_HASH, engine="none", patience_s={})
    heartbeat.set_phase(State.RUNNING)
    assert heartbeat.state() == (State.RUNNING, [])
    line.judge(scores(), at_ms=45)
    assert heartbeat.state() == (State.DEGRADED, ["1 verdicts left after their deadline so far"])
    assert heartbeat.advances()


@pytest.mark.parametrize(("deadline_ms", "step_ms", "pending"), [(49, 10, 0), (2000, 100, 1)])
def test_what_can_wait_waits_for_a_moment_without_a_part(
    make_line: Any, monkeypatch: pytest.MonkeyPatch, deadline_ms: int, step_ms: int, pending: int
) -> None:
    """The heartbeat comes when the part has its verdict; where parts never end, after a quarter of a second anyway."""
    line, stop, seen = make_line(), Event(), list[int]()
    step = line.loop.step

    def step_and_wait() -> None:
        step()
        line.clock.now_ns += step_ms * MS

    def turn() -> None:
        seen.append(line.meters.pending)
        stop.set()

    monkeypatch.setattr(line.loop, "step", step_and_wait)
    send(line.inbox, trigger(at_ms=1, deadline_ms=deadline_ms))
    line.loop.run(stop, turn)
    assert seen[0] == pending
