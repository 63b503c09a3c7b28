"""Health: systemd's datagrams, the heartbeat's judgement, HTTP."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from line_values import MS, free_port, verdict

from inspectd.errors import EndpointError
from inspectd.health import meters as meters_module
from inspectd.health.heartbeat import FAULTS_IN_A_ROW, MISSES_IN_A_ROW, Heartbeat, State
from inspectd.health.http import MetricsServer
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.health.systemd import Notifier
from inspectd.messages import Outcome, Verdict
from inspectd.wire.public import schema, to_bytes

PATIENCE = {Stage.TRIGGER: 2.0, Stage.ACQUIRE: 2.0, Stage.INSPECT: 2.0, Stage.GATE: 2.0, Stage.RECORD: 10.0}


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_over_its_socket(tmp_path: Path, abstract: bool) -> None:
    """READY, STATUS and WATCHDOG arrive as datagrams, on a path or an abstract socket; no field is forged."""
    address = f"@inspectd-test-{free_port()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if abstract else address)
        systemd.settimeout(5)
        with Notifier(address) as notifier:
            notifier.tell(READY="1", STATUS="fine\nWATCHDOG=1")
        assert systemd.recv(200) == b"READY=1\nSTATUS=fine WATCHDOG=1"


def test_without_systemd_nothing_is_told() -> None:
    """No address: telling does nothing. A bad one: one line."""
    with Notifier(None) as notifier:
        notifier.tell(READY="1")
    with pytest.raises(EndpointError, match="NOTIFY_SOCKET"):
        Notifier("nonsense")
    with pytest.raises(EndpointError, match="NOTIFY_SOCKET"):
        Notifier("/nowhere/at/all")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock for the beats; call it to let seconds pass."""

    class Clock:
        now_ns = 1

        def monotonic_ns(self) -> int:
            return self.now_ns

    made = Clock()
    monkeypatch.setattr(meters_module, "time", made)

    def let_pass(seconds: float) -> None:
        made.now_ns += round(seconds * 1e9)

    return let_pass


def beating() -> tuple[Meters, Heartbeat]:
    """A running pipeline whose stages have all just come round."""
    meters = Meters()
    heartbeat = Heartbeat(meters, station="test", bundle_hash="ab", engine="fake", patience_s=PATIENCE)
    for stage in PATIENCE:
        meters.beat(stage)
    heartbeat.set_phase(State.RUNNING)
    return meters, heartbeat


@pytest.mark.parametrize("silent", [Stage.TRIGGER, Stage.ACQUIRE, Stage.INSPECT, Stage.GATE])
def test_a_silent_stage_on_the_way_stalls_the_pipeline(clock: Callable[[float], None], silent: Stage) -> None:
    """The watchdog starves once a stage between trigger and verdict stops coming round, though the process lives."""
    meters, heartbeat = beating()
    assert heartbeat.advances()
    clock(2.5)
    for stage in PATIENCE:
        if stage is not silent:
            meters.beat(stage)
    assert not heartbeat.advances()
    state, why = heartbeat.state()
    assert state is State.STALLED
    assert silent.value in why[0]


def test_a_silent_recorder_degrades_and_does_not_stall(clock: Callable[[float], None]) -> None:
    """Verdicts go on without records: a person is needed, a restart is not."""
    meters, heartbeat = beating()
    clock(11)
    for stage in Heartbeat.VITAL:
        meters.beat(stage)
    assert heartbeat.advances()
    assert heartbeat.state()[0] is State.DEGRADED


def test_faults_degrade_until_they_are_over() -> None:
    """A refusing disk, an engine that fails again and again: degraded, with a line each; running again afterwards."""
    meters, heartbeat = beating()
    meters.set_storage_fault(Stage.RECORD, "records cannot be written: disk full")
    meters.engine_faults_in_a_row = FAULTS_IN_A_ROW
    state, why = heartbeat.state()
    assert state is State.DEGRADED
    assert len(why) == 2
    meters.set_storage_fault(Stage.RECORD, "")
    meters.engine_faults_in_a_row = 0
    assert heartbeat.state() == (State.RUNNING, [])


def test_an_overdue_verdict_starves_the_watchdog(clock: Callable[[float], None]) -> None:
    """Every loop comes round, but a pending part is not answered half a second past its deadline: stalled."""
    meters, heartbeat = beating()
    meters.set_pending(1, clock_ns() + 50 * MS)
    clock(0.4)
    assert heartbeat.advances()
    clock(0.2)
    assert not heartbeat.advances()
    state, why = heartbeat.state()
    assert (state, why) == (State.STALLED, ["a verdict is 0.6 s overdue"])
    meters.set_pending(0, None)
    assert heartbeat.state() == (State.RUNNING, [])


def test_deadline_misses_in_a_row_starve_the_watchdog(clock: Callable[[float], None]) -> None:
    """Ten late verdicts in a row stall the daemon; one in time, or two quiet seconds, and it runs again."""
    meters, heartbeat = beating()
    for seq in range(MISSES_IN_A_ROW):
        assert heartbeat.advances()
        meters.verdict(late(seq), clock_ns())
    assert not heartbeat.advances()
    assert heartbeat.state()[1] == [
        "the last 10 verdicts left after their deadline",
        "10 verdicts left after their deadline so far",
    ]
    meters.verdict(replace(late(11), deadline_ns=clock_ns() + 1), clock_ns())
    assert heartbeat.advances()
    for seq in range(MISSES_IN_A_ROW):
        meters.verdict(late(seq), clock_ns())
    assert not heartbeat.advances()
    clock(2.1)
    for stage in PATIENCE:
        meters.beat(stage)
    assert heartbeat.advances()
    assert meters.counts()["deadlines_missed"] == 2 * MISSES_IN_A_ROW


def late(seq: int) -> Verdict:
    """A verdict whose deadline is now."""
    return replace(verdict(seq, Outcome.INVALID), deadline_ns=clock_ns(), verdict_ns=clock_ns())


def clock_ns() -> int:
    """What the meters take for the time."""
    return meters_module.time.monotonic_ns()


def test_ready_means_that_parts_are_judged(clock: Callable[[float], None]) -> None:
    """Running and degraded are ready; starting, stalled and stopping are not, and say so."""
    meters, heartbeat = beating()
    assert heartbeat.readiness() == (True, "running")
    meters.set_storage_fault(Stage.RECORD, "disk full")
    assert heartbeat.readiness() == (True, "degraded; disk full")
    clock(2.5)
    is_ready, how = heartbeat.readiness()
    assert not is_ready
    assert how.startswith("stalled; trigger has not come round for too long; ")
    for phase in (State.STARTING, State.STOPPING, State.STOPPED):
        heartbeat.set_phase(phase)
        assert heartbeat.readiness() == (False, phase.value)


def test_the_health_message_follows_its_schema() -> None:
    """Before the first part and after some, in every phase."""
    meters, heartbeat = beating()
    validator = Draft202012Validator(schema("health"))
    validator.validate(json.loads(to_bytes(heartbeat.message())))
    for outcome in Outcome:
        meters.verdict(verdict(7, outcome))
    for phase in State:
        heartbeat.set_phase(phase)
        validator.validate(json.loads(to_bytes(heartbeat.message())))
    message = heartbeat.message()
    assert message["verdicts"] == {"PASS": 1, "REJECT": 1, "INVALID": 1}
    assert message["latency_ms"]["p50"] == 6.0


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page on the loopback."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        with closing(connection.getresponse()) as reply:
            return reply.status, reply.read().decode()


def test_meters_are_served_over_http() -> None:
    """/metrics has verdicts by outcome and reason and the time of each step; /ready says yes or no; the rest is 404."""
    meters = Meters()
    meters.verdict(verdict(1, Outcome.REJECT))
    meters.observe(Step.ENGINE, 3_000_000)
    meters.count(Count.OVERLOAD, 2)
    ready = [(True, "running")]
    with closing(MetricsServer(free_port(), metrics=meters.prometheus, ready=lambda: ready[0])) as server:
        text = get(server.port, "/metrics")[1]
        assert 'inspectd_verdicts_total{outcome="REJECT",reason="over_threshold"} 1.0' in text
        assert 'inspectd_step_seconds_count{step="engine"} 1.0' in text
        assert "inspectd_overload_total 2.0" in text
        assert get(server.port, "/ready") == (200, "running\n")
        ready[0] = (False, "stalled; gate has not come round for too long")
        assert get(server.port, "/ready") == (503, "stalled; gate has not come round for too long\n")
        assert get(server.port, "/secrets")[0] == 404


def test_a_port_in_use_is_one_clear_line() -> None:
    """The metrics port of another program is named in the error."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EndpointError, match=rf"127\.0\.0\.1:{port}") as caught:
            MetricsServer(port, metrics=lambda: b"", ready=lambda: True)
        assert caught.value.exit_code == 7
