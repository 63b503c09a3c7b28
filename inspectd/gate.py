"""The stage that answers: exactly one verdict per trigger, by its deadline, whatever happens behind it.

`Gate` is the rule, without clock, thread or socket; `inspectd.gate_loop` feeds it from the stages and tells what it
decided.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from inspectd.decide import Decision, decide
from inspectd.messages import (
    Action,
    Fault,
    LateScores,
    Outcome,
    Reason,
    Scores,
    Thresholds,
    Trigger,
    Verdict,
)

MEMORY = 4096
NS_PER_MS = 1_000_000

Answer = Verdict | LateScores


def _ordinary(seq: int, trigger_ns: int) -> str:
    """No part is known to be bad."""
    return ""


class Gate:
    """Triggers in, answers out. Remembers what it decided, so that a second answer to a part is refused and counted.

    Scores are judged by the thresholds of the bundle that gave them; what cannot be judged names the last such bundle.
    Events may come in any order: scores that overtake their trigger wait for it. `memory` bounds how many decided and
    how many early parts are remembered; anything older counts as decided. `challenge_of` (seq, trigger_ns) names a part
    that is known to be bad.
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        bundle_hash: str,
        invalid_action: Literal["accept", "reject", "stop"],
        challenge_of: Callable[[int, int], str] = _ordinary,
        memory: int = MEMORY,
    ) -> None:
        self._challenge_of = challenge_of
        self._thresholds = thresholds
        self._bundle_hash = bundle_hash
        self._actions = {
            Outcome.PASS: Action.ACCEPT,
            Outcome.REJECT: Action.REJECT,
            Outcome.INVALID: Action(invalid_action),
        }
        self._memory = memory
        self._pending: dict[int, Trigger] = {}
        self._deadlines: list[tuple[int, int]] = []
        self._decided: OrderedDict[int, bool] = OrderedDict()  # seq -> late scores may still come
        self._forgotten = -1  # every seq up to here was decided, longer ago than is remembered
        self._early: OrderedDict[int, Scores | Fault] = OrderedDict()
        self.refused = 0

    @property
    def pending(self) -> int:
        """How many triggers wait for their verdict."""
        return len(self._pending)

    @property
    def next_deadline_ns(self) -> int | None:
        """The earliest deadline among the pending triggers (monotonic clock), None where there is none."""
        while self._deadlines and self._deadlines[0][1] not in self._pending:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def on_trigger(self, trigger: Trigger, now_ns: int) -> list[Answer]:
        """Register a trigger; answers at once where its scores or fault came before it. A known one is refused."""
        if self._is_known(trigger.seq):
            self.refused += 1
            return []
        self._pending[trigger.seq] = trigger
        heapq.heappush(self._deadlines, (trigger.deadline_ns, trigger.seq))
        early = self._early.pop(trigger.seq, None)
        if isinstance(early, Scores):
            return self.on_scores(early, now_ns)
        return [] if early is None else self.on_fault(early, now_ns)

    def early(self, seq: int) -> Scores | Fault | None:
        """What has come of part `seq` before its trigger."""
        return self._early.get(seq)

    def on_scores(self, scores: Scores, now_ns: int) -> list[Answer]:
        """Decide a pending part. Past the deadline: INVALID (late), if not yet said, and the scores as LateScores."""
        trigger = self._pending.get(scores.seq)
        if trigger is None:
            return self._unexpected(scores)
        if trigger.part_id != scores.part_id:
            self.refused += 1  # another part's scores: this part is answered at its deadline
            return []
        if now_ns >= trigger.deadline_ns:
            return [self._late(trigger, now_ns), *self._unexpected(scores)]
        self._thresholds, self._bundle_hash = scores.thresholds, scores.bundle_hash
        return [self._answer(trigger, decide(scores, scores.thresholds), now_ns, scores)]

    def on_fault(self, fault: Fault, now_ns: int) -> list[Answer]:
        """Answer a pending part with INVALID and the fault's reason."""
        trigger = self._pending.get(fault.seq)
        if trigger is None:
            return self._unexpected(fault)
        if trigger.part_id != fault.part_id:
            self.refused += 1
            return []
        return [self._answer(trigger, Decision(Outcome.INVALID, fault.reason, fault.detail), now_ns, fault)]

    def on_shed(self, trigger: Trigger, now_ns: int) -> list[Answer]:
        """Answer a part at once that could not be taken in: INVALID (overload). A known one is refused."""
        if self._is_known(trigger.seq):
            self.refused += 1
            return []
        self._pending[trigger.seq] = trigger
        decision = Decision(Outcome.INVALID, Reason.OVERLOAD, "more parts came at once than can be judged in time")
        return [self._answer(trigger, decision, now_ns, None)]

    def expire(self, now_ns: int, margin_ns: int = 0) -> list[Verdict]:
        """Answer every pending part whose deadline is at most `margin_ns` away with INVALID (late), earliest first."""
        late = []
        while (deadline_ns := self.next_deadline_ns) is not None and deadline_ns <= now_ns + margin_ns:
            late.append(self._late(self._pending[self._deadlines[0][1]], now_ns))
        return late

    def close(self, now_ns: int) -> list[Verdict]:
        """Answer every part that is still pending with INVALID (shutting down)."""
        decision = Decision(Outcome.INVALID, Reason.SHUTTING_DOWN, "the daemon stopped before the part was judged")
        return [self._answer(trigger, decision, now_ns, None) for trigger in list(self._pending.values())]

    def held_up(self, verdict: Verdict, now_ns: int) -> Verdict:
        """A verdict of this gate that did not leave by its deadline, as it may leave now: stamped again.

        A PASS is INVALID (late), without scores: the line has acted on its own time-out, nobody may take it back.
        """
        if verdict.outcome is not Outcome.PASS:
            return replace(verdict, verdict_ns=now_ns)
        late_ms = (now_ns - verdict.deadline_ns) / NS_PER_MS
        return replace(
            verdict,
            outcome=Outcome.INVALID,
            reason=Reason.LATE,
            detail=f"passed in time, but held up on its way out until {late_ms:.1f} ms after the deadline",
            action=self._actions[Outcome.INVALID],
            part_score=None,
            region_scores=(),
            verdict_ns=now_ns,
        )

    def _is_known(self, seq: int) -> bool:
        return seq in self._pending or seq in self._decided or seq <= self._forgotten

    def _unexpected(self, message: Scores | Fault) -> list[Answer]:
        """No such part is pending: it overtook its trigger, it is late, or it was answered before."""
        if not self._is_known(message.seq):
            if message.seq in self._early:
                self.refused += 1
                return []
            self._early[message.seq] = message
            if len(self._early) > self._memory:
                self._early.popitem(last=False)
                self.refused += 1
            return []
        if isinstance(message, Scores) and self._decided.get(message.seq, False):
            self._decided[message.seq] = False
            return [late_scores(message)]
        self.refused += 1
        return []

    def _late(self, trigger: Trigger, now_ns: int) -> Verdict:
        allowed_ms = (trigger.deadline_ns - trigger.trigger_ns) / NS_PER_MS
        detail = f"no scores within {allowed_ms:g} ms of the trigger"
        return self._answer(trigger, Decision(Outcome.INVALID, Reason.LATE, detail), now_ns, None)

    def _answer(self, trigger: Trigger, decision: Decision, now_ns: int, cause: Scores | Fault | None) -> Verdict:
        del self._pending[trigger.seq]
        self._decided[trigger.seq] = cause is None
        if len(self._decided) > self._memory:
            self._forgotten = max(self._forgotten, self._decided.popitem(last=False)[0])
        scores = cause if isinstance(cause, Scores) else None
        return Verdict(
            station=trigger.station,
            seq=trigger.seq,
            part_id=trigger.part_id,
            outcome=decision.outcome,
            reason=decision.reason,
            detail=decision.detail,
            action=self._actions[decision.outcome],
            part_score=None if scores is None else scores.part_score,
            region_scores=() if scores is None else scores.region_scores,
            thresholds=self._thresholds,
            bundle_hash=self._bundle_hash,
            trigger_ns=trigger.trigger_ns,
            trigger_wall_ns=trigger.trigger_wall_ns,
            captured_ns=0 if cause is None else cause.captured_ns,
            located_ns=0 if scores is None else scores.located_ns,
            scored_ns=0 if scores is None else scores.scored_ns,
            verdict_ns=now_ns,
            deadline_ns=trigger.deadline_ns,
            label="" if cause is None else cause.label,
            encoder=trigger.encoder,
            sent_id=trigger.sent_id,
            overdue=trigger.overdue,
            challenge=self._challenge_of(trigger.seq, trigger.trigger_ns),
        )


def late_scores(scores: Scores) -> LateScores:
    """Scores that no verdict could be told of, to be recorded beside the one that was."""
    return LateScores(
        seq=scores.seq,
        part_id=scores.part_id,
        part_score=scores.part_score,
        region_scores=scores.region_scores,
        scored_ns=scores.scored_ns,
    )


def margin_ns(deadline_ms: float, margin_ms: float) -> int:
    """How long before its deadline a late part is answered, so that the verdict has left by then: at most a fifth."""
    return round(min(margin_ms, deadline_ms / 5) * NS_PER_MS)
