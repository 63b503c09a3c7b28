"""The stage that answers: exactly one verdict per trigger, by its deadline, whatever happens behind it.

`Gate` is the rule, without clock, thread or socket; `GateLoop` feeds it from the stages and tells what it decided.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Literal

import numpy as np
import zmq
from numpy.typing import NDArray

from inspectd.decide import Decision, decide
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.messages import (
    Action,
    Fault,
    LateScores,
    Outcome,
    Reason,
    Record,
    Scores,
    Thresholds,
    Trigger,
    Verdict,
)
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive, send
from inspectd.wire.stages import Message

MEMORY = 4096
LARGEST_MARGIN_NS = 2_000_000
IDLE_MS = 50
NS_PER_MS = 1_000_000

Answer = Verdict | LateScores


class Gate:
    """Triggers in, answers out. Remembers what it decided, so that a second answer to a part is refused and counted.

    Events may come in any order: scores that overtake their trigger wait for it. `memory` bounds how many decided and
    how many early parts are remembered; anything older counts as decided.
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        bundle_hash: str,
        invalid_action: Literal["accept", "reject", "stop"],
        memory: int = MEMORY,
    ) -> None:
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
        return [self._answer(trigger, decide(scores, self._thresholds), now_ns, scores)]

    def on_fault(self, fault: Fault, now_ns: int) -> list[Answer]:
        """Answer a pending part with INVALID and the fault's reason."""
        trigger = self._pending.get(fault.seq)
        if trigger is None:
            return self._unexpected(fault)
        if trigger.part_id != fault.part_id:
            self.refused += 1
            return []
        return [self._answer(trigger, Decision(Outcome.INVALID, fault.reason, fault.detail), now_ns, fault)]

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
            return [
                LateScores(
                    seq=message.seq,
                    part_id=message.part_id,
                    part_score=message.part_score,
                    region_scores=message.region_scores,
                    scored_ns=message.scored_ns,
                )
            ]
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
        )


def margin_ns(deadline_ms: float) -> int:
    """How long before its deadline a late part is answered, so that the verdict has left by then: 2 ms or a fifth."""
    return min(LARGEST_MARGIN_NS, round(deadline_ms * NS_PER_MS / 5))


class GateLoop:
    """Inbox -> `Gate` -> `announce` first, then the record; one thread.

    announce(verdict): tells those outside; must not block. rows and images: bounded queues to the records; a row that
    finds its queue full is kept here and sent later, an image that does is dropped and counted. keep_map(seq, map):
    for questions.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        inbox: Socket,
        rows: Socket,
        images: Socket,
        announce: Callable[[Verdict], None],
        keep_image: Callable[[Verdict], bool],
        keep_map: Callable[[int, NDArray[np.float32]], None],
        margin_ns: int,
        meters: Meters,
    ) -> None:
        self._gate = gate
        self._inbox, self._rows, self._images = inbox, rows, images
        self._announce, self._keep_image, self._keep_map = announce, keep_image, keep_map
        self._margin_ns = margin_ns
        self._meters = meters
        self._waiting_rows: list[Record | LateScores] = []

    def run(self, stop: Event, each_turn: Callable[[], None]) -> None:
        """Answer until `stop` is set, nothing is pending and nothing waits; `each_turn` runs at least every 50 ms."""
        while not (stop.is_set() and self._gate.pending == 0 and not self._inbox.poll(0)):
            self._meters.beat(Stage.GATE)
            self._inbox.poll(self._patience_ms())
            self.step()
            each_turn()
        self.finish()

    def step(self) -> None:
        """Take what is in the inbox, then answer what has run out of time."""
        while (message := self._next()) is not None:
            now_ns = time.monotonic_ns()
            if isinstance(message, Scores):
                self._tell(self._gate.on_scores(message, now_ns), message)
            elif isinstance(message, Fault):
                self._tell(self._gate.on_fault(message, now_ns), message)
            elif isinstance(message, Trigger):
                early = self._gate.early(message.seq)
                self._tell(self._gate.on_trigger(message, now_ns), early)
            self._tell(self._gate.expire(time.monotonic_ns(), self._margin_ns), None)
        self._tell(self._gate.expire(time.monotonic_ns(), self._margin_ns), None)
        self._meters.set_count(Count.REFUSED, self._gate.refused)
        self._meters.set_pending(self._gate.pending, self._gate.next_deadline_ns)
        self._flush()

    def finish(self) -> None:
        """Answer what is pending with INVALID (shutting down), then hand over every row; blocks up to a second."""
        self._tell(self._gate.close(time.monotonic_ns()), None)
        give_up_ns = time.monotonic_ns() + 1_000 * NS_PER_MS
        while self._waiting_rows and time.monotonic_ns() < give_up_ns:
            self._rows.poll(100, zmq.POLLOUT)
            self._flush()
        self._meters.count(Count.ROWS_LOST, len(self._waiting_rows))

    def _next(self) -> Message | None:
        """The next readable message; one that is not is counted, and its part is answered at the deadline."""
        while True:
            try:
                return receive(self._inbox)
            except WireError:
                self._meters.count(Count.STAGE_ERRORS)

    def _patience_ms(self) -> int:
        """Time to the next deadline less the margin, in whole milliseconds."""
        deadline_ns = self._gate.next_deadline_ns
        if deadline_ns is None:
            return IDLE_MS
        left_ns = deadline_ns - self._margin_ns - time.monotonic_ns()
        return min(IDLE_MS, max(0, math.ceil(left_ns / NS_PER_MS)))

    def _tell(self, answers: list[Answer] | list[Verdict], cause: Scores | Fault | None) -> None:
        for answer in answers:
            if isinstance(answer, LateScores):
                self._meters.count(Count.LATE_SCORES)
                self._waiting_rows.append(answer)
                continue
            self._announce(answer)
            self._record(answer, cause)

    def _record(self, verdict: Verdict, cause: Scores | Fault | None) -> None:
        if cause is None or cause.seq != verdict.seq:
            self._waiting_rows.append(Record(verdict=verdict))
            return
        scores = cause if isinstance(cause, Scores) else None
        if scores is not None:
            self._meters.observe(Step.GATE, verdict.verdict_ns - scores.scored_ns)
        record = Record(verdict=verdict, pose=scores.pose if scores else None, source=cause.source)
        self._waiting_rows.append(record)
        if scores is not None and scores.anomaly_map is not None:
            self._keep_map(verdict.seq, scores.anomaly_map)
        if cause.image is not None and self._keep_image(verdict):
            self._flush()  # the row goes first
            if not send(self._images, replace(record, image=cause.image)):
                self._meters.count(Count.IMAGES_DROPPED)

    def _flush(self) -> None:
        """Send the waiting rows, oldest first, as far as there is room."""
        sent = 0
        for row in self._waiting_rows:
            if not send(self._rows, row):
                break
            sent += 1
        del self._waiting_rows[:sent]
