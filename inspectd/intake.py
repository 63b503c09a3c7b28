"""The stage that hears triggers: each part is numbered and told to the gate at once, whatever the camera does."""

from __future__ import annotations

from threading import Event

from inspectd.health.meters import Count, Meters, Stage
from inspectd.messages import Fault, Position, Reason
from inspectd.register import Register
from inspectd.triggers import Ask, TriggerSource
from inspectd.wire.sockets import Socket, send

UNREAD_AT_MOST = 1_000
"""Messages that are taken in after the stop: a sender that never pauses must not keep the daemon from ending."""


class Intake:
    """Triggers -> gate, then -> the camera's stage; one thread, that waits for nothing but triggers.

    camera: the sending end of the bounded queue to the camera's stage. positions: a way to the gate of its own and
    short, so that a flood of them fills no queue that a trigger needs; what is dropped costs precision, no part.
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
        meters: Meters,
    ) -> None:
        self._register = register
        self._triggers = triggers
        self._gate, self._camera, self._positions = gate, camera, positions
        self._max_parts = max_parts
        self._meters = meters

    def run(self, stop: Event) -> None:
        """Take parts in until `stop` is set or the planned number is reached.

        What has come by then is taken in, too: its sender has heard of no refusal, and waits for a verdict.
        """
        while not stop.is_set() and self._register.parts != self._max_parts:
            self._take_next(stop)
        left = UNREAD_AT_MOST
        while stop.is_set() and left and self._register.parts != self._max_parts and self._triggers.waits():
            self._take_next(stop)
            left -= 1

    def _take_next(self, stop: Event) -> None:
        self._meters.beat(Stage.TRIGGER)
        ask = self._triggers.next(stop)
        if isinstance(ask, Position):
            send(self._positions, ask)
        elif ask is not None:
            self._take_in(ask)

    def _take_in(self, ask: Ask) -> None:
        trigger = self._register.enter(ask)
        if not send(self._camera, trigger):
            self._meters.count(Count.OVERLOAD)
            detail = "the queue to the camera was full"
            fault = Fault(seq=trigger.seq, part_id=trigger.part_id, reason=Reason.OVERLOAD, detail=detail)
            send(self._gate, fault)  # where even that queue is full, the gate answers at the deadline
