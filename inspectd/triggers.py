"""What asks for a part: an absolute timer, messages on a ZeroMQ socket, or the camera itself. Tells the encoder too."""

from __future__ import annotations

import time
from threading import Event
from typing import Protocol

import structlog

from inspectd.health.meters import Count, Meters
from inspectd.messages import Position
from inspectd.seldom import Seldom
from inspectd.trigger_message import Ask, parse_message
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive_foreign

PATIENCE_MS = 100
NS_PER_MS = 1_000_000
log = structlog.get_logger(__name__)


class TriggerSource(Protocol):
    """Says when the next part is due, and where the belt is. Used by one thread."""

    def next(self, stop: Event) -> Ask | Position | None:
        """Block for the next request, at most about 100 ms; None where there was none. What `waits` is given also after
        `stop` was set."""

    def waits(self) -> bool:
        """Whether a request has come that nobody has read; does not block."""

    def close(self) -> None:
        """Let go of sockets; a second call does nothing."""


class TimerTriggers:
    """One part each `period_ms`, on an absolute schedule: a late wake-up does not move the ones after it.

    Requests that fell due while the caller was busy follow at once, each with its own due time. Those that are older
    than `deadline_ms` cannot be answered in time any more: after a pause of the machine they are left out, and counted.
    """

    def __init__(self, period_ms: float, deadline_ms: float, meters: Meters) -> None:
        self._period_ns = round(period_ms * NS_PER_MS)
        self._deadline_ns = round(deadline_ms * NS_PER_MS)
        self._meters = meters
        self._seldom = Seldom()
        self._next_ns: int | None = None

    def next(self, stop: Event) -> Ask | None:
        """Block until the next point of the schedule, which begins with the first call."""
        now_ns = time.monotonic_ns()
        if self._next_ns is None:
            self._next_ns = now_ns
        self._skip(now_ns)
        wait_ns = self._next_ns - now_ns
        if wait_ns > 0 and stop.wait(min(wait_ns, PATIENCE_MS * NS_PER_MS) / 1e9):
            return None
        if wait_ns > PATIENCE_MS * NS_PER_MS:
            return None
        due_ns = self._next_ns
        self._next_ns += self._period_ns
        return Ask(due_ns)

    def _skip(self, now_ns: int) -> None:
        """Leave out the points of the schedule whose deadline has passed."""
        if self._next_ns is None or (late_ns := now_ns - self._next_ns - self._deadline_ns) < 0:
            return
        missed = late_ns // self._period_ns + 1
        self._next_ns += missed * self._period_ns
        self._meters.count(Count.TIMER_SKIPPED, missed)
        if (told := self._seldom.told(missed)) is not None:
            log.warning("the timer left out triggers whose deadline had passed: was the machine paused?", count=told)

    def waits(self) -> bool:
        """Nothing: a schedule ends where it is stopped."""
        return False

    def close(self) -> None:
        """Nothing to let go of."""


class MessageTriggers:
    """Trigger and position messages on a PULL socket (`parse_message`); any other is counted, and told of seldom."""

    def __init__(self, socket: Socket, meters: Meters) -> None:
        self._socket = socket
        self._meters = meters
        self._refused, self._put_right = Seldom(), Seldom()

    def next(self, stop: Event) -> Ask | Position | None:
        """Block for the next message; it speaks of the moment at which it is read, less the age that it states."""
        if not self._socket.poll(PATIENCE_MS):
            return None
        read_ns = time.monotonic_ns()
        try:
            asked = parse_message(receive_foreign(self._socket, 1), read_ns)
        except (ValueError, WireError) as error:
            self._meters.count(Count.TRIGGERS_REFUSED)
            if (told := self._refused.told()) is not None:
                log.warning("trigger messages refused", count=told, why=str(error))
            return None
        if isinstance(asked, Ask) and asked.odd:
            self._meters.count(Count.TRIGGERS_PUT_RIGHT)
            if (told := self._put_right.told()) is not None:
                fields = ", ".join(asked.odd)
                log.warning("triggers put right: see docs/messages.md", count=told, fields=fields, sent=asked.sent_id)
        return asked

    def waits(self) -> bool:
        """Whether a message has come."""
        return bool(self._socket.poll(0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
