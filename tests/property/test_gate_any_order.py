"""Property: one verdict per trigger, in time, under any order of arrivals."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from line_values import BUNDLE_HASH, LIMITS, MS, fault, scores, trigger

from inspectd.gate import Gate
from inspectd.messages import LateScores, Outcome, Reason, Verdict

PARTS = 6
events = st.lists(
    st.tuples(
        st.sampled_from(["trigger", "good", "bad", "nan", "fault", "tick"]),
        st.integers(0, PARTS - 1),
        st.integers(0, 30),
    ),
    max_size=60,
)


@given(events)
def test_each_trigger_gets_exactly_one_verdict(arrivals: list[tuple[str, int, int]]) -> None:
    """Duplicates, overtaking, losses and delays: each triggered part gets one verdict, no other part gets any."""
    gate = Gate(thresholds=LIMITS, bundle_hash=BUNDLE_HASH, invalid_action="reject")
    now_ms = 0
    answers: list[Verdict | LateScores] = []
    triggered = set()
    made = {"good": 0.1, "bad": 0.9, "nan": float("nan")}
    for kind, seq, pause_ms in arrivals:
        now_ms += pause_ms
        answers += gate.expire(now_ms * MS)
        if kind == "trigger":
            triggered.add(seq)
            answers += gate.on_trigger(trigger(seq, at_ms=now_ms), now_ms * MS)
        elif kind == "fault":
            answers += gate.on_fault(fault(seq), now_ms * MS)
        elif kind != "tick":
            answers += gate.on_scores(scores(seq, made[kind]), now_ms * MS)
    answers += gate.expire((now_ms + 50) * MS)
    verdicts = [answer for answer in answers if isinstance(answer, Verdict)]
    assert Counter(verdict.seq for verdict in verdicts) == Counter(triggered)
    assert gate.pending == 0
    late = Counter(answer.seq for answer in answers if isinstance(answer, LateScores))
    said_late = {verdict.seq for verdict in verdicts if verdict.reason is Reason.LATE}
    assert set(late) <= said_late
    assert all(count == 1 for count in late.values())
    for verdict in verdicts:
        if verdict.outcome is Outcome.PASS:
            assert verdict.part_score == 0.1
            assert verdict.verdict_ns < verdict.deadline_ns
