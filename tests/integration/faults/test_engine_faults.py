"""An engine that raises, gives nonsense, is slow or hangs: what the line sees, and what replaces it."""

from __future__ import annotations

import signal
from collections.abc import Callable

import accounting
from faulting.board import Injection, Kind
from faulty_line import FaultyLine, until

Line = Callable[..., FaultyLine]
ABANDONED = "engine abandoned: parts are INVALID until another one is loaded"
QUICK = {"hang_s": 0.2}


def test_single_failures_cost_single_parts(line: Line) -> None:
    """An error, one that nobody foresaw, NaN and too few regions: INVALID each, and the next part is judged."""
    running = line()
    for kind, reason in (
        (Kind.ENGINE_FAULT, "engine_fault"),
        (Kind.ENGINE_CRASH, "engine_fault"),
        (Kind.ENGINE_NAN, "not_a_number"),
        (Kind.ENGINE_REGIONS, "engine_fault"),
    ):
        running.control.arm(Injection(kind=kind))
        assert running.reasons(2) == [reason, "within_limits"], kind
    metrics = running.metrics()
    assert metrics["inspectd_engine_faults_total"] == 4
    assert metrics["inspectd_engines_abandoned_total"] == 0
    assert accounting.balance(running, 8) == 0


def test_an_engine_that_gives_nothing_but_nan_is_replaced(line: Line) -> None:
    """After so many failures in a row another engine is loaded, and the parts are judged again."""
    running = line(supervision={**QUICK, "faults_in_a_row": 3})
    running.control.arm(Injection(kind=Kind.ENGINE_NAN, parts=3))
    assert running.reasons(3) == ["not_a_number"] * 3
    running.recovers()
    assert running.metrics()["inspectd_engine_restarts_total"] == 1
    accounting.balance(running, len(running.heard.results))
    assert running.logged(ABANDONED)["hung"] is False


def test_a_slow_inference_is_late_and_its_scores_are_kept(line: Line) -> None:
    """Scores after the deadline: INVALID (late), never announced, recorded beside; the engine stays."""
    running = line(line={"deadline_ms": 300}, supervision={"hang_s": 5})
    running.control.arm(Injection(kind=Kind.ENGINE_SLOW, amount_s=0.6))
    slow = running.part()
    assert (slow["verdict"], slow["reason"]) == ("INVALID", "late")
    running.recovers()
    assert running.metrics()["inspectd_engines_abandoned_total"] == 0
    accounting.balance(running, len(running.heard.results))
    late = next(part for part in running.records() if part.verdict.seq == slow["seq"])
    assert late.late is not None
    assert late.late.part_score > 0


def test_a_hung_engine_is_abandoned_and_replaced(line: Line) -> None:
    """An inference that never ends: late, then INVALID (engine fault) at once, then judged by another engine."""
    running = line(line={"deadline_ms": 400}, supervision={"hang_s": 1.0})
    running.recovers()
    running.control.arm(Injection(kind=Kind.ENGINE_HANG))
    assert running.reasons(1) == ["late"]
    running.recovers()
    reasons = {result["reason"] for result in running.heard.results}
    assert reasons <= {"within_limits", "over_threshold", "late", "engine_fault", "overload"}
    metrics = running.metrics()
    assert metrics["inspectd_engine_restarts_total"] == 1
    assert metrics["inspectd_engine_restart_seconds_count"] == 1
    running.wait_for_state("running")
    assert accounting.balance(running, len(running.heard.results)) == 0
    assert running.logged(ABANDONED)["hung"] is True
    assert "engine restarted" in running.events()


def test_a_replacement_that_fails_is_tried_again(line: Line) -> None:
    """The first attempt to load fails: parts are INVALID at once, health says why, the second attempt works."""
    running = line(supervision={**QUICK, "faults_in_a_row": 1})
    failed = running.control.arm(Injection(kind=Kind.ENGINE_LOAD))
    running.control.arm(Injection(kind=Kind.ENGINE_FAULT))
    assert running.reasons(1) == ["engine_fault"]
    assert running.control.taken(failed) == 1
    assert running.reasons(1) == ["engine_fault"]
    running.wait_for_state("degraded", "no engine for")
    running.recovers()
    accounting.balance(running, len(running.heard.results))
    assert "injected" in running.logged("engine not replaced")["why"]


def test_a_spent_budget_ends_the_daemon_for_systemd_to_restart(line: Line) -> None:
    """No engine is to be had: every part is still answered and recorded, then exit code 9 and one line."""
    running = line(supervision={**QUICK, "faults_in_a_row": 1, "restarts": 2})
    running.control.arm(Injection(kind=Kind.ENGINE_LOAD, parts=0))
    running.control.arm(Injection(kind=Kind.ENGINE_FAULT))
    assert running.reasons(1) == ["engine_fault"]
    until(lambda: running.process.poll() is not None, "the daemon ends")
    assert running.end() == 9
    assert "after it was replaced 2 times in 600 s" in running.events()[-1]
    accounting.on_topic_and_in_records(running, len(running.heard.results))


def test_an_engine_that_never_returns_starves_the_watchdog(line: Line) -> None:
    """A call that outlasts its own time-out: parts are still answered; stalled; no watchdog; it can be ended."""
    running = line(line={"deadline_ms": 400}, supervision=QUICK)
    running.control.arm(Injection(kind=Kind.ENGINE_STUCK))
    assert running.reasons(2) == ["late", "late"]
    running.wait_for_state("stalled", "inspect has not come round")
    running.notices_now()
    assert set(running.reasons(3)) <= {"late", "overload"}
    assert not any("WATCHDOG" in notice for notice in running.notices_now())
    accounting.in_metrics(running, 5)
    assert running.end(signal.SIGTERM) in (1, -signal.SIGALRM)
    accounting.on_topic_and_in_records(running, 5)
