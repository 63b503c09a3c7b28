"""Where a part begins: its number, its name and its deadline; the gate is told before anybody asks the camera."""

from __future__ import annotations

import time
from collections.abc import Callable

from inspectd.health.meters import Count, Meters
from inspectd.messages import Trigger
from inspectd.triggers import Ask
from inspectd.wire.sockets import Socket, send

NS_PER_MS = 1_000_000


class Register:
    """Names and numbers each part once, and tells the gate. Used by one thread."""

    def __init__(
        self, *, station: str, deadline_ms: float, next_seq: Callable[[], int], gate: Socket, meters: Meters
    ) -> None:
        self._station = station
        self._deadline_ns = round(deadline_ms * NS_PER_MS)
        self._next_seq = next_seq
        self._gate = gate
        self._meters = meters
        self.parts = 0

    def enter(self, ask: Ask) -> Trigger:
        """Take a part in. RuntimeError where the gate has stopped taking any."""
        seq = self._next_seq()
        age_ns = time.monotonic_ns() - ask.due_ns
        trigger = Trigger(
            station=self._station,
            seq=seq,
            part_id=ask.part_id or f"{self._station}-{seq}",
            trigger_ns=ask.due_ns,
            trigger_wall_ns=time.time_ns() - age_ns,
            deadline_ns=ask.due_ns + self._deadline_ns,
            encoder=ask.encoder,
        )
        if not send(self._gate, trigger):
            raise RuntimeError("the gate's inbox is full: the gate has stopped")
        self.parts += 1
        self._meters.count(Count.TRIGGERS)
        return trigger
