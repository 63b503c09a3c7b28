"""The loop around `Gate` and `Tracker`: takes what the stages say, announces what was decided, hands the records on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event

import numpy as np
import structlog
import zmq
from numpy.typing import NDArray

from inspectd.gate import Answer, Gate, late_scores
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.messages import (
    Action,
    Fault,
    LateScores,
    Position,
    Record,
    Scores,
    Shed,
    ToldReject,
    Trigger,
    Verdict,
)
from inspectd.seldom import Seldom
from inspectd.tracking import Tracker
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive, send
from inspectd.wire.stages import Message

IDLE_MS = 50
TURN_MS = 250
"""How long `each_turn` may wait for a moment without a part; what it does would delay one."""
HELD_ENDS_MS = 2_000
MOST_AT_ONCE = 256
NS_PER_MS = 1_000_000
log = structlog.get_logger(__name__)


class GateLoop:
    """Inbox -> `Gate` -> `Tracker` -> `note`, `announce`, then the record's way to the database; one thread.

    note(record): writes down what is about to be announced. prepare(verdict): the messages for those outside;
    announce(messages): sends them. tell_reject(verdict): tells a reject that was held. None may block.
    rows and images: bounded queues to the records; a row that finds its queue full is kept here and sent later, an
    image that does is dropped and counted. keep_map(seq, map): for questions.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        inbox: Socket,
        rows: Socket,
        images: Socket,
        note: Callable[[Record], None],
        tracker: Tracker,
        prepare: Callable[[Verdict], Sequence[Sequence[bytes]]],
        announce: Callable[[Sequence[Sequence[bytes]]], None],
        tell_reject: Callable[[Verdict], None],
        keep_image: Callable[[Verdict], bool],
        keep_map: Callable[[int, NDArray[np.float32]], None],
        margin_ns: int,
        meters: Meters,
    ) -> None:
        self._gate, self._tracker = gate, tracker
        self._tell_reject = tell_reject
        self._inbox, self._rows, self._images = inbox, rows, images
        self._note, self._prepare, self._announce = note, prepare, announce
        self._keep_image, self._keep_map = keep_image, keep_map
        self._margin_ns = margin_ns
        self._meters = meters
        self._late = Seldom()
        self._waiting_rows: list[Record | LateScores | ToldReject] = []

    def run(self, stop: Event, each_turn: Callable[[], None]) -> None:
        """Answer until `stop` is set, nothing is pending and nothing waits.

        `each_turn` runs at least every 50 ms while no part is pending, else every 250.
        """
        turned_ns = 0
        while not (stop.is_set() and self._gate.pending == 0 and not self._inbox.poll(0)):
            self._meters.beat(Stage.GATE)
            self._inbox.poll(self._patience_ms())
            self.step()
            if self._gate.pending == 0 or time.monotonic_ns() - turned_ns > TURN_MS * NS_PER_MS:
                turned_ns = time.monotonic_ns()
                each_turn()
        self.finish()

    def step(self) -> None:
        """Take what is in the inbox, so much at most that the loop comes round; answer what has run out of time."""
        taken = 0
        while taken < MOST_AT_ONCE and (message := self._next()) is not None:
            self._take(message)
            self._tell_what_is_due()
            taken += 1
        if not taken:
            self._tell_what_is_due()
        self._meters.set_count(Count.REFUSED, self._gate.refused)
        self._meters.set_pending(self._gate.pending, self._gate.next_deadline_ns)
        self._flush()

    def _take(self, message: Message) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(message, Scores):
            self._tell(self._gate.on_scores(message, now_ns), message)
        elif isinstance(message, Fault):
            self._tell(self._gate.on_fault(message, now_ns), message)
        elif isinstance(message, Trigger):
            self._tracker.on_trigger(message)
            early = self._gate.early(message.seq)
            self._tell(self._gate.on_trigger(message, now_ns), early)
        elif isinstance(message, Shed):
            for trigger in message.triggers:
                self._tracker.on_trigger(trigger)
                self._tell(self._gate.on_shed(trigger, time.monotonic_ns()), None)
            self._meters.count(Count.SHED, len(message.triggers))
        elif isinstance(message, Position):
            self._tracker.on_position(message)

    def finish(self) -> None:
        """Answer what is pending with INVALID (shutting down), tell what is held, hand over every row.

        Blocks for up to two seconds for the windows of held rejects, and up to one for the rows.
        """
        self._tell(self._gate.close(time.monotonic_ns()), None)
        give_up_ns = time.monotonic_ns() + HELD_ENDS_MS * NS_PER_MS
        while self._tracker.held and time.monotonic_ns() < give_up_ns:
            self._inbox.poll(self._patience_ms())
            self.step()
        self._tell_held(self._tracker.close(time.monotonic_ns()))
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
        """Time to the next deadline less the margin, or to the next held reject, in whole milliseconds."""
        now_ns = time.monotonic_ns()
        deadline_ns = self._gate.next_deadline_ns
        reject_ns = self._tracker.next_due_ns(now_ns)
        due_ns = [] if deadline_ns is None else [deadline_ns - self._margin_ns]
        due_ns += [] if reject_ns is None else [reject_ns]
        return min([IDLE_MS, *(max(0, math.ceil((at_ns - now_ns) / NS_PER_MS)) for at_ns in due_ns)])

    def _tell_what_is_due(self) -> None:
        """Answer what has run out of time, and tell the held rejects whose time has come."""
        now_ns = time.monotonic_ns()
        self._tell(self._gate.expire(now_ns, self._margin_ns), None)
        self._tell_held(self._tracker.due(now_ns))

    def _tell_held(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            self._tell_reject(verdict)
            if verdict.reject is not None:
                told = ToldReject(
                    seq=verdict.seq, part_id=verdict.part_id, reject=verdict.reject, told_ns=time.monotonic_ns()
                )
                self._waiting_rows.append(told)
        self._meters.set_count(Count.REJECTS_MISSED, self._tracker.missed)
        self._meters.set_count(Count.REJECT_OVERLAPS, self._tracker.overlaps)

    def _tell(self, answers: list[Answer] | list[Verdict], cause: Scores | Fault | None) -> None:
        for answer in answers:
            if isinstance(answer, LateScores):
                self._meters.count(Count.LATE_SCORES)
                self._waiting_rows.append(answer)
                continue
            self._hand_over(answer, cause if cause is not None and cause.seq == answer.seq else None)

    def _hand_over(self, answer: Verdict, cause: Scores | Fault | None) -> None:
        """Note, look at the clock once more, announce; what can be done before or after is not done in between."""
        verdict = self._aimed(answer)
        record = _record_of(verdict, cause)
        self._note(record)
        messages = self._prepare(verdict)
        begun_ns = time.monotonic_ns()
        if verdict.verdict_ns < verdict.deadline_ns <= begun_ns:
            verdict = self._held_up(verdict, begun_ns)
            record = replace(record, verdict=verdict)
            self._note(record)  # of two notes of a part the later one counts
            messages = self._prepare(verdict)
        self._announce(messages)
        self._account(verdict, begun_ns, time.monotonic_ns())
        self._record(record, cause)
        if verdict.outcome is not answer.outcome and isinstance(cause, Scores):
            self._meters.count(Count.LATE_SCORES)
            self._waiting_rows.append(late_scores(cause))

    def _aimed(self, verdict: Verdict) -> Verdict:
        """With its reject, where it has one. The tracker hears of other verdicts once they have been told."""
        return self._tracker.on_verdict(verdict, time.monotonic_ns()) if verdict.action is Action.REJECT else verdict

    def _held_up(self, verdict: Verdict, now_ns: int) -> Verdict:
        """What may still be said of a part whose deadline passed while its verdict was noted."""
        again = self._gate.held_up(verdict, now_ns)
        return self._tracker.held_up(again, now_ns) if verdict.action is Action.REJECT else self._aimed(again)

    def _account(self, verdict: Verdict, begun_ns: int, told_ns: int) -> None:
        """After the announcement: the tracker, the meters, and one line where the verdict has left too late."""
        if verdict.action is not Action.REJECT:
            self._tracker.on_verdict(verdict, told_ns)
        self._meters.observe(Step.PUBLISH, told_ns - begun_ns)
        self._meters.verdict(verdict, told_ns)
        late = told_ns >= verdict.deadline_ns and not verdict.overdue
        if late and (told := self._late.told()) is not None:
            late_ms = round((told_ns - verdict.deadline_ns) / NS_PER_MS, 3)
            log.warning(
                "verdict left after its deadline: see that the line has acted on its own time-out",
                count=told,
                part=verdict.part_id,
                seq=verdict.seq,
                verdict=verdict.outcome.value,
                reason=verdict.reason.value,
                late_ms=late_ms,
            )

    def _record(self, record: Record, cause: Scores | Fault | None) -> None:
        verdict, scores = record.verdict, cause if isinstance(cause, Scores) else None
        self._waiting_rows.append(record)
        if scores is not None:
            self._meters.observe(Step.GATE, verdict.verdict_ns - scores.scored_ns)
        if scores is not None and scores.anomaly_map is not None:
            self._keep_map(verdict.seq, scores.anomaly_map)
        if cause is not None and cause.image is not None and self._keep_image(verdict):
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


def _record_of(verdict: Verdict, cause: Scores | Fault | None) -> Record:
    """The verdict and what else is recorded of its part; the images follow once it has been told."""
    scores = cause if isinstance(cause, Scores) else None
    return Record(
        verdict=verdict,
        pose=None if scores is None else scores.pose,
        brightness=None if scores is None else scores.brightness,
        sharpness=None if scores is None else scores.sharpness,
        source="" if cause is None else cause.source,
    )
