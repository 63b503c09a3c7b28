"""Where a part begins: its number, its name and its deadline; the gate is told before anybody asks the camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from inspectd.health.meters import Count, Meters
from inspectd.messages import Shed, Trigger
from inspectd.trigger_message import Ask
from inspectd.wire.sockets import Socket, has_room, send

NS_PER_MS = 1_000_000


class Register:
    """Names and numbers each part once, and tells the gate. Used by one thread.

    margin_ns: how long before its deadline a part is answered at the latest.
    """

    def __init__(
        self,
        *,
        station: str,
        deadline_ms: float,
        margin_ns: int,
        next_seq: Callable[[], int],
        gate: Socket,
        meters: Meters,
    ) -> None:
        self._station = station
        self._deadline_ns = round(deadline_ms * NS_PER_MS)
        self._margin_ns = margin_ns
        self._next_seq = next_seq
        self._gate = gate
        self._meters = meters
        self.parts = 0

    def enter(self, ask: Ask) -> Trigger:
        """Take a part in and tell the gate. RuntimeError where the gate has no room: `has_room` says so before."""
        trigger = self.number(ask)
        if not send(self._gate, trigger):
            raise RuntimeError("the gate's inbox is full: the gate has stopped")
        return trigger

    def has_room(self) -> bool:
        """Whether the gate takes one more part now."""
        return has_room(self._gate)

    def number(self, ask: Ask) -> Trigger:
        """Give a part its number and name; the gate is to be told of it."""
        seq = self._next_seq()
        now_ns = time.monotonic_ns()
        deadline_ns = ask.due_ns + self._deadline_ns
        overdue = ask.age_ns >= self._deadline_ns - self._margin_ns
        self.parts += 1
        self._meters.count(Count.TRIGGERS)
        if overdue:
            self._meters.count(Count.TRIGGERS_OVERDUE)
        return Trigger(
            station=self._station,
            seq=seq,
            part_id=ask.part_id or f"{self._station}-{seq}",
            trigger_ns=ask.due_ns,
            trigger_wall_ns=time.time_ns() - (now_ns - ask.due_ns),
            deadline_ns=deadline_ns,
            encoder=ask.encoder,
            sent_id=ask.sent_id,
            overdue=overdue,
        )

    def shed(self, triggers: Sequence[Trigger]) -> bool:
        """Have the gate answer these numbered parts at once; False where it has no room."""
        return send(self._gate, Shed(triggers=tuple(triggers)))
