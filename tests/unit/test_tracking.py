"""Tracker: when a reject is told, held or missed, by time. Time is given, not read."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from line_values import MS, trigger, verdict

from inspectd import tracking
from inspectd.messages import Action, Command, Outcome, Reject, Verdict
from inspectd.outputs import rejects
from inspectd.outputs.rejects import Settling
from inspectd.tracking import KILLED, STOPPED, ByDelay, Tracker
from inspectd.wire.public import SILENT_S


def tracker(*, delay_ms: float = 200, window_ms: float = 10, lead_ms: float = 5, hold: bool = False) -> Tracker:
    """A tracker by delay."""
    course = ByDelay(delay_ns=round(delay_ms * MS), window_ns=round(window_ms * MS))
    return Tracker(course, lead_ns=round(lead_ms * MS), hold=hold)


def judged(seq: int, at_ms: float, outcome: Outcome = Outcome.REJECT) -> Verdict:
    """The verdict on the part whose trigger was `at_ms`."""
    return replace(verdict(seq, outcome), trigger_ns=round(at_ms * MS))


def given(rule: Tracker, seq: int, at_ms: float, outcome: Outcome = Outcome.REJECT, *, after_ms: float = 20) -> Verdict:
    """What becomes of a part that is triggered and then judged."""
    rule.on_trigger(trigger(seq, at_ms=at_ms))
    return rule.on_verdict(judged(seq, at_ms, outcome), round((at_ms + after_ms) * MS))


def command(of: Verdict) -> Reject:
    """The reject of a verdict that has one."""
    assert of.reject is not None
    return of.reject


def test_a_reject_is_told_with_its_window() -> None:
    """The window opens the delay after the trigger, whenever the verdict came."""
    told = command(given(tracker(), 1, 1000, after_ms=37))
    assert told == Reject(command=Command.SCHEDULED, opens_ns=1200 * MS, closes_ns=1210 * MS)


def test_a_part_that_could_not_be_judged_is_tracked_like_a_reject() -> None:
    """INVALID with the action reject gets the same window; a part that passes gets none."""
    assert command(given(tracker(), 1, 0, Outcome.INVALID)).opens_ns == 200 * MS
    assert given(tracker(), 1, 0, Outcome.PASS).reject is None


def test_a_stop_does_not_wait_for_the_actuator() -> None:
    """The action stop has no window: it is meant at once."""
    rule = tracker(hold=True)
    stopped = rule.on_verdict(replace(judged(1, 0), action=Action.STOP), MS)
    assert stopped.reject is None
    assert rule.held == 0


def test_a_command_that_would_act_after_the_window_is_missed() -> None:
    """Up to its window's end less the lead a command is told; later it is missed, and says by how much."""
    assert command(given(tracker(), 1, 0, after_ms=205)).command is Command.SCHEDULED
    missed = command(given(tracker(), 1, 0, after_ms=205.5))
    assert missed.command is Command.MISSED
    assert missed.detail == "the command would act 0.5 ms after its window"


def test_a_held_command_leaves_when_its_window_opens_less_the_lead() -> None:
    """Not with the verdict, not a moment early, once."""
    rule = tracker(hold=True)
    assert command(given(rule, 1, 0)).command is Command.HELD
    assert rule.next_due_ns(20 * MS) == 195 * MS
    assert rule.due(195 * MS - 1) == []
    (told,) = rule.due(195 * MS)
    assert command(told).command is Command.SCHEDULED
    assert rule.due(300 * MS) == []
    assert rule.next_due_ns(300 * MS) is None


def test_held_commands_leave_in_the_order_of_their_parts() -> None:
    """A part that was judged later but triggered earlier is told first."""
    rule = tracker(hold=True)
    for seq in (2, 5, 1, 4, 3):
        given(rule, seq, seq)
    assert [told.seq for told in rule.due(200 * MS)] == [1, 2, 3, 4, 5]


def test_a_held_command_that_was_forgotten_too_long_is_missed() -> None:
    """A loop that was stopped for too long tells no command that would hit another part."""
    rule = tracker(hold=True)
    given(rule, 1, 0)
    (told,) = rule.due(230 * MS)
    assert command(told).command is Command.MISSED


def test_at_the_end_a_held_command_does_not_leave_early() -> None:
    """Whoever gets it would act at once, on another part: what is not near its window is missed."""
    rule = tracker(hold=True)
    for seq in (1, 2):
        given(rule, seq, (seq - 1) * 40)
    near, far = rule.close(196 * MS)
    assert command(near).command is Command.SCHEDULED
    assert (command(far).command, command(far).detail) == (Command.MISSED, STOPPED)
    assert rule.close(197 * MS) == []


def test_neighbours_in_one_window_are_named_and_counted() -> None:
    """A reject names a part that shares its window and may be good; a pair of both kinds is counted once."""
    rule = tracker(window_ms=30)
    for seq in (1, 2, 3):
        rule.on_trigger(trigger(seq, at_ms=seq * 20))
    assert rule.on_verdict(judged(1, 20, Outcome.PASS), 70 * MS).reject is None
    assert command(rule.on_verdict(judged(2, 40), 70 * MS)).neighbour == "p1"
    assert rule.overlaps == 1
    assert command(rule.on_verdict(judged(3, 60), 70 * MS)).neighbour == ""
    assert rule.overlaps == 1


def test_a_good_part_judged_after_its_rejected_neighbour_is_counted_too() -> None:
    """Which of the two was judged first does not matter."""
    rule = tracker(window_ms=30)
    for seq in (1, 2):
        rule.on_trigger(trigger(seq, at_ms=seq * 20))
    assert command(rule.on_verdict(judged(1, 20), 50 * MS)).neighbour == "p2"
    rule.on_verdict(judged(2, 40, Outcome.PASS), 60 * MS)
    assert rule.overlaps == 1


def test_parts_further_apart_than_the_window_have_no_neighbours() -> None:
    """Windows that only touch do not overlap."""
    rule = tracker(window_ms=20)
    given(rule, 1, 0, Outcome.PASS)
    assert command(given(rule, 2, 20)).neighbour == ""
    assert rule.overlaps == 0


def test_without_tracking_verdicts_pass_through_as_they_are() -> None:
    """A station that does not track rejects tells each one at once, as ever."""
    rule = Tracker(None)
    plain = judged(1, 0)
    rule.on_trigger(trigger(1))
    assert rule.on_verdict(plain, MS) is plain
    assert rule.due(MS) == rule.close(MS) == []


def test_what_a_killed_run_held_is_reported_as_missed_once() -> None:
    """Tracked or not: nobody can tell any more where the part is."""
    for course in (None, ByDelay(delay_ns=200 * MS, window_ns=10 * MS)):
        held = replace(judged(7, 0), reject=Reject(command=Command.HELD, opens_ns=200 * MS))
        rule = Tracker(course, left_over=[held])
        (told,) = rule.due(MS)
        assert command(told) == Reject(command=Command.MISSED, opens_ns=200 * MS, detail=KILLED)
        assert rule.due(2 * MS) == []
        assert rule.missed == 1


def test_what_a_killed_run_held_waits_until_somebody_can_hear_it() -> None:
    """Before that it is neither told nor counted, and an end before that leaves it to the next run."""
    somebody: list[bool] = []
    held = replace(judged(7, 0), reject=Reject(command=Command.HELD, opens_ns=200 * MS))
    rule = Tracker(None, left_over=[held], settled=lambda: bool(somebody))
    assert rule.due(MS) == rule.close(2 * MS) == []
    assert rule.missed == 0
    somebody.append(True)
    (told,) = rule.due(3 * MS)
    assert (told.seq, rule.missed) == (7, 1)


def test_clients_have_the_silence_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts from the moment at which parts are taken, however long the start took before."""
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(rejects, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    begun: list[bool] = []
    settled = Settling(lambda: bool(begun))
    for clock.now_s, told in ((100.0, False), (160.0, False)):
        assert settled() is told
    begun.append(True)
    for clock.now_s, told in ((161.0, False), (161.0 + SILENT_S - 0.01, False), (161.0 + SILENT_S, True)):
        assert settled() is told


def test_no_more_than_so_many_commands_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: beyond that a command is missed, and said to be."""
    monkeypatch.setattr(tracking, "MOST_HELD", 3)
    rule = tracker(delay_ms=10_000, hold=True)
    said = [command(given(rule, seq, seq * 10)).command for seq in range(5)]
    assert said == [Command.HELD] * 3 + [Command.MISSED] * 2
    assert (rule.held, rule.missed) == (3, 2)
