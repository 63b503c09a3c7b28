"""Property: one verdict per trigger, in time, under any order of arrivals."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from line_values import BUNDLE_HASH, LIMITS, MS, fault, scores, trigger

from inspectd.gate import Answer, Gate
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


MEMORY = 8
"""So small that parts are forgotten: what is forgotten must not be answered a second time."""
DEADLINE_MS = 50
MARGIN_MS = 2
PART_SCORES = {"good": 0.1, "bad": 0.9, "nan": float("nan")}
REASONS = st.sampled_from([Reason.NO_PART, Reason.ENGINE_FAULT, Reason.OVERLOAD, Reason.STALE_FRAME])
NEAR = st.integers(-2 * MEMORY, 3)
"""Which part an answer is for, counted from the newest trigger: long forgotten, recent, or not triggered yet."""


class GateMachine(RuleBasedStateMachine):
    """A gate that lives on: triggers come in the order of their numbers, as one stage sends them; all else comes in any
    order, early, late, twice, for another part, or never; the loop may be held up at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(thresholds=LIMITS, bundle_hash=BUNDLE_HASH, invalid_action="reject", memory=MEMORY)
        self.now_ms = 1000
        self.due_ms: dict[int, int] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.late: Counter[int] = Counter()

    @rule(age_ms=st.integers(0, 60))
    def trigger_comes(self, age_ms: int) -> None:
        """The next part, now or some time ago; even after its deadline it gets its one verdict."""
        seq = len(self.due_ms) + 1
        self.due_ms[seq] = self.now_ms - age_ms
        part = trigger(seq, at_ms=self.due_ms[seq], deadline_ms=DEADLINE_MS)
        self._take(self.gate.on_trigger(part, self.now_ms * MS))

    @precondition(lambda self: self.due_ms)
    @rule(back=st.integers(0, 2 * MEMORY))
    def trigger_comes_again(self, back: int) -> None:
        """A number that was taken before gets nothing."""
        seq = max(1, len(self.due_ms) - back)
        part = trigger(seq, at_ms=self.now_ms, deadline_ms=DEADLINE_MS)
        assert self.gate.on_trigger(part, self.now_ms * MS) == []

    @rule(near=NEAR, kind=st.sampled_from(sorted(PART_SCORES)))
    def scores_come(self, near: int, kind: str) -> None:
        """Of any part, triggered or not."""
        seq = max(1, len(self.due_ms) + near)
        self._take(self.gate.on_scores(scores(seq, PART_SCORES[kind]), self.now_ms * MS))

    @rule(near=NEAR)
    def scores_of_another_part_come(self, near: int) -> None:
        """The number of one part, the name of another: never a verdict of a part that was triggered before."""
        seq = len(self.due_ms) + near
        if seq in self.due_ms:
            assert self.gate.on_scores(scores(seq, part_id="someone else"), self.now_ms * MS) == [] or (
                self.verdicts[seq].reason is Reason.LATE
            )

    @rule(near=NEAR, reason=REASONS)
    def fault_comes(self, near: int, reason: Reason) -> None:
        """Of any part, triggered or not."""
        seq = max(1, len(self.due_ms) + near)
        self._take(self.gate.on_fault(fault(seq, reason), self.now_ms * MS))

    @rule(passed_ms=st.integers(0, 70))
    def time_passes(self, passed_ms: int) -> None:
        """The loop turns: what has run out of time is answered, and nothing that has not."""
        self.now_ms += passed_ms
        late = self.gate.expire(self.now_ms * MS, MARGIN_MS * MS)
        assert all(self.due_ms[each.seq] + DEADLINE_MS - MARGIN_MS <= self.now_ms for each in late)
        self._take([*late])
        pending = [due_ms for seq, due_ms in self.due_ms.items() if seq not in self.verdicts]
        assert all(self.now_ms < due_ms + DEADLINE_MS - MARGIN_MS for due_ms in pending)

    @rule(passed_ms=st.integers(1, 200))
    def the_loop_is_held_up(self, passed_ms: int) -> None:
        """Time passes, and nobody looks."""
        self.now_ms += passed_ms

    @invariant()
    def every_trigger_is_pending_or_answered_once(self) -> None:
        """The accounts agree at every moment, and the next deadline is the earliest of those that wait."""
        pending = {seq: due_ms for seq, due_ms in self.due_ms.items() if seq not in self.verdicts}
        assert self.gate.pending == len(pending)
        earliest = min(pending.values(), default=None)
        assert self.gate.next_deadline_ns == (None if earliest is None else (earliest + DEADLINE_MS) * MS)

    def teardown(self) -> None:
        """At the end each part that still waits is answered, and no other."""
        waiting = set(self.due_ms) - set(self.verdicts)
        last = self.gate.close(self.now_ms * MS)
        assert sorted(verdict.seq for verdict in last) == sorted(waiting)
        assert all(verdict.reason is Reason.SHUTTING_DOWN for verdict in last)

    def _take(self, answers: list[Answer]) -> None:
        """Only triggered parts are answered, once; PASS only for good scores in time; late scores once, after LATE."""
        for answer in answers:
            if isinstance(answer, LateScores):
                self.late[answer.seq] += 1
                assert self.verdicts[answer.seq].reason is Reason.LATE
                assert self.late[answer.seq] == 1
                continue
            assert answer.seq in self.due_ms
            assert answer.seq not in self.verdicts
            self.verdicts[answer.seq] = answer
            if answer.outcome is not Outcome.INVALID:
                assert self.now_ms < self.due_ms[answer.seq] + DEADLINE_MS
                assert (answer.outcome is Outcome.PASS) == (answer.part_score == PART_SCORES["good"])


TestGateMachine = GateMachine.TestCase
