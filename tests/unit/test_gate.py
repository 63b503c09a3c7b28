"""Gate: the rule that every trigger gets exactly one verdict by its deadline. Time is given, not read."""

from __future__ import annotations

import math

from line_values import BUNDLE_HASH, LIMITS, MS, fault, scores, trigger

from inspectd.gate import Gate, margin_ns
from inspectd.messages import Action, LateScores, Outcome, Reason, Verdict


def gate(**changes: int) -> Gate:
    """A gate whose line rejects what is invalid."""
    return Gate(thresholds=LIMITS, bundle_hash=BUNDLE_HASH, invalid_action="reject", **changes)


def only(answers: list[Verdict | LateScores]) -> Verdict:
    """The one verdict."""
    (answer,) = answers
    assert isinstance(answer, Verdict)
    return answer


def test_scores_in_time_give_their_verdict() -> None:
    """Scores within the limits, before the deadline, give PASS with everything that a record needs."""
    rule = gate()
    assert rule.on_trigger(trigger(7), 0) == []
    verdict = only(rule.on_scores(scores(7), 6 * MS))
    assert (verdict.seq, verdict.part_id, verdict.outcome, verdict.action) == (7, "p7", Outcome.PASS, Action.ACCEPT)
    assert (verdict.captured_ns, verdict.located_ns, verdict.scored_ns, verdict.verdict_ns) == (
        MS,
        2 * MS,
        5 * MS,
        6 * MS,
    )
    assert verdict.thresholds == LIMITS
    assert verdict.bundle_hash == BUNDLE_HASH
    assert rule.pending == 0


def test_scores_over_the_limit_reject() -> None:
    """A part score above its limit gives REJECT and the action reject."""
    rule = gate()
    rule.on_trigger(trigger(), 0)
    assert only(rule.on_scores(scores(part_score=0.9), MS)).action is Action.REJECT


def test_a_fault_is_invalid_with_its_reason() -> None:
    """A fault gives INVALID, its reason, no score, and the action that the station set for it."""
    rule = gate()
    rule.on_trigger(trigger(), 0)
    verdict = only(rule.on_fault(fault(reason=Reason.SEVERAL_PARTS), MS))
    assert (verdict.outcome, verdict.reason, verdict.action) == (Outcome.INVALID, Reason.SEVERAL_PARTS, Action.REJECT)
    assert verdict.part_score is None


def test_nan_never_passes() -> None:
    """Scores that are not numbers give INVALID, should they ever come this far."""
    rule = gate()
    rule.on_trigger(trigger(), 0)
    assert only(rule.on_scores(scores(part_score=math.nan), MS)).reason is Reason.NOT_A_NUMBER


def test_silence_is_answered_at_the_deadline() -> None:
    """A part that nothing is heard of gets INVALID (late) as soon as its deadline is within the margin, not before."""
    rule = gate()
    rule.on_trigger(trigger(1, deadline_ms=50), 0)
    rule.on_trigger(trigger(2, at_ms=20, deadline_ms=50), 20 * MS)
    assert rule.next_deadline_ns == 50 * MS
    assert rule.expire(47 * MS, 2 * MS) == []
    late = rule.expire(48 * MS, 2 * MS)
    assert [(verdict.seq, verdict.reason) for verdict in late] == [(1, Reason.LATE)]
    assert rule.next_deadline_ns == 70 * MS


def test_late_scores_are_kept_and_never_announced() -> None:
    """Scores after INVALID (late) come back once, as LateScores; a second time they are refused."""
    rule = gate()
    rule.on_trigger(trigger(), 0)
    rule.expire(50 * MS)
    (late,) = rule.on_scores(scores(part_score=0.9), 60 * MS)
    assert isinstance(late, LateScores)
    assert late.part_score == 0.9
    assert rule.on_scores(scores(part_score=0.9), 61 * MS) == []
    assert rule.refused == 1


def test_scores_past_the_deadline_are_late_even_where_nobody_said_so_yet() -> None:
    """A gate that was held up does not announce scores that it reads after the deadline."""
    rule = gate()
    rule.on_trigger(trigger(), 0)
    verdict, late = rule.on_scores(scores(), 50 * MS)
    assert isinstance(verdict, Verdict)
    assert verdict.reason is Reason.LATE
    assert isinstance(late, LateScores)


def test_scores_that_overtake_their_trigger_wait_for_it() -> None:
    """The order in which trigger and scores are read does not matter."""
    rule = gate()
    overtaking = scores(3)
    assert rule.on_scores(overtaking, MS) == []
    assert rule.early(3) is overtaking
    assert only(rule.on_trigger(trigger(3), 2 * MS)).outcome is Outcome.PASS
    assert rule.on_fault(fault(4), MS) == []
    assert only(rule.on_trigger(trigger(4), 2 * MS)).reason is Reason.NO_PART


def test_a_second_answer_is_refused() -> None:
    """Only the first answer to a part counts; others are refused and counted."""
    rule = gate()
    rule.on_trigger(trigger(), 0)
    rule.on_scores(scores(), MS)
    assert rule.on_scores(scores(part_score=0.9), 2 * MS) == []
    assert rule.on_fault(fault(), 2 * MS) == []
    assert rule.on_trigger(trigger(), 2 * MS) == []
    assert rule.refused == 3


def test_another_parts_scores_are_refused() -> None:
    """Scores whose part_id is not the trigger's are not used for it."""
    rule = gate()
    rule.on_trigger(trigger(1), 0)
    assert rule.on_scores(scores(1, part_id="someone else"), MS) == []
    assert rule.refused == 1
    assert rule.expire(50 * MS)[0].reason is Reason.LATE


def test_what_was_forgotten_counts_as_decided() -> None:
    """A duplicate is refused even where the part is older than the gate's memory."""
    rule = gate(memory=4)
    for seq in range(10):
        rule.on_trigger(trigger(seq), 0)
        rule.on_scores(scores(seq), MS)
    assert rule.on_trigger(trigger(2), 2 * MS) == []
    assert rule.on_scores(scores(2), 2 * MS) == []
    assert rule.refused == 2


def test_early_scores_do_not_pile_up() -> None:
    """Scores whose trigger never comes are forgotten, and counted, beyond the memory."""
    rule = gate(memory=4)
    for seq in range(100, 110):
        rule.on_scores(scores(seq), 0)
    assert rule.refused == 6


def test_closing_answers_every_pending_part() -> None:
    """At the end each pending part gets INVALID (shutting down)."""
    rule = gate()
    for seq in range(3):
        rule.on_trigger(trigger(seq), 0)
    assert [verdict.reason for verdict in rule.close(MS)] == [Reason.SHUTTING_DOWN] * 3
    assert rule.close(MS) == []


def test_the_margin_is_a_fraction_of_short_deadlines() -> None:
    """What the station says where there is time, a fifth of the deadline where there is not."""
    assert margin_ns(50, 2) == 2 * MS
    assert margin_ns(5, 2) == MS
    assert margin_ns(50, 0.5) == MS / 2
