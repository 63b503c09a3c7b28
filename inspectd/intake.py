"""The stage that hears triggers: each part is numbered and told to the gate at once, whatever the camera does."""

from __future__ import annotations

import time
from threading import Event
from typing import Final

import structlog

from inspectd.health.meters import Count, Meters, Stage
from inspectd.messages import Fault, Position, Reason, Trigger
from inspectd.register import Register
from inspectd.seldom import Seldom
from inspectd.trigger_message import Ask
from inspectd.triggers import TriggerSource
from inspectd.wire.sockets import Socket, has_room, send

UNREAD_AT_MOST = 1_000
"""Messages that are taken in after the stop: a sender that never pauses must not keep the daemon from ending."""
SHED_AT_ONCE: Final = 32
"""Parts that one message to the gate names; those that wait for it, and those whose answer is awaited, are no more."""
LEAST_ASKED, MOST_ASKED = 32, 1_000
"""Parts without a verdict, for each millisecond of the deadline one, from which on the next ones are shed."""
GATE_TAKES_S: Final = 2.0
POLL_S: Final = 0.005
log = structlog.get_logger(__name__)


class Intake:
    """Triggers -> gate, then -> the camera's stage; one thread, that waits for nothing but triggers.

    camera: the sending end of the bounded queue to the camera's stage. positions: a way to the gate of its own and
    short, so that a flood of them fills no queue that a trigger needs; what is dropped costs precision, no part.

    Where as many parts wait for their verdict as could at best be judged by the deadline, or the camera's queue is
    full, a part is shed: numbered, and named to the gate together with others in one message, which answers all of them
    at once. Until it has, no more than another such message is prepared, and then no further trigger is read: whatever
    is read is answered in time, the others wait at their sender, and their time begins when they are read.
    """

    def __init__(
        self,
        register: Register,
        *,
        triggers: TriggerSource,
        gate: Socket,
        camera: Socket,
        positions: Socket,
        max_parts: int | None,
        deadline_ms: float,
        meters: Meters,
    ) -> None:
        self._register = register
        self._most_asked = min(max(LEAST_ASKED, int(deadline_ms)), MOST_ASKED)
        self._triggers = triggers
        self._gate, self._camera, self._positions = gate, camera, positions
        self._max_parts = max_parts
        self._meters = meters
        self._shed: list[Trigger] = []
        self._awaited = 0
        self._patient = True  # until the stop, when all that is left has to be told
        self._seldom = Seldom()

    def run(self, stop: Event) -> None:
        """Take parts in until `stop` is set or the planned number is reached.

        What has come by then is taken in, too: its sender has heard of no refusal, and waits for a verdict.
        """
        while not stop.is_set() and self._register.parts != self._max_parts:
            self._take_next(stop)
        self._patient = False
        left = UNREAD_AT_MOST
        while stop.is_set() and left and self._register.parts != self._max_parts and self._triggers.waits():
            self._take_next(stop)
            left -= 1
        self._end()

    def _take_next(self, stop: Event) -> None:
        self._meters.beat(Stage.TRIGGER)
        if len(self._shed) >= SHED_AT_ONCE and not self._tell_of_shed():
            time.sleep(POLL_S)
            return
        if self._shed and not self._triggers.waits():
            self._tell_of_shed()
        ask = self._triggers.next(stop)
        if isinstance(ask, Position):
            send(self._positions, ask)
        elif ask is not None:
            self._take_in(ask)

    def _take_in(self, ask: Ask) -> None:
        """To the camera, or among those that are shed; numbers reach the gate in their order either way."""
        asked = self._register.parts - self._meters.answered
        if self._shed or asked >= self._most_asked or not has_room(self._camera) or not self._register.has_room():
            self._shed.append(self._register.number(ask))
            return
        trigger = self._register.enter(ask)
        if not send(self._camera, trigger):
            self._meters.count(Count.OVERLOAD)
            detail = "the queue to the camera was full"
            fault = Fault(seq=trigger.seq, part_id=trigger.part_id, reason=Reason.OVERLOAD, detail=detail)
            send(self._gate, fault)  # where even that queue is full, the gate answers at the deadline

    def _tell_of_shed(self) -> bool:
        """Name the shed parts to the gate; False while it has not answered those before, or has no room."""
        unanswered = self._meters.counts_of(Count.SHED) < self._awaited
        if (self._patient and unanswered) or not self._register.shed(self._shed):
            return False
        count = len(self._shed)
        self._awaited += count
        self._shed.clear()
        self._meters.count(Count.OVERLOAD, count)
        if (told := self._seldom.told(count)) is not None:
            log.warning("more parts than can be judged: INVALID (overload)", count=told)
        return True

    def _end(self) -> None:
        """The gate hears of every part that has a number."""
        give_up_s = time.monotonic() + GATE_TAKES_S
        while self._shed and not self._tell_of_shed() and time.monotonic() < give_up_s:
            time.sleep(POLL_S)
