"""What asks for a part: an absolute timer, messages on a ZeroMQ socket, or the camera itself."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import structlog

from inspectd.health.meters import Count, Meters
from inspectd.wire.sockets import Socket

MAX_PART_ID = 128
PATIENCE_MS = 100
NS_PER_MS = 1_000_000
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a part: when it was due (monotonic clock), and the part's name where the source knows it."""

    due_ns: int
    part_id: str | None = None


class TriggerSource(Protocol):
    """Says when the next part is due. Used by one thread."""

    def next(self, stop: Event) -> Ask | None:
        """Block for the next request, at most about 100 ms; None where there was none, or `stop` is set."""

    def close(self) -> None:
        """Let go of sockets; a second call does nothing."""


class TimerTriggers:
    """One part each `period_ms`, on an absolute schedule: a late wake-up does not move the ones after it.

    Requests that fell due while the caller was busy follow at once, each with its own due time: no part is left out.
    """

    def __init__(self, period_ms: float) -> None:
        self._period_ns = round(period_ms * NS_PER_MS)
        self._next_ns: int | None = None

    def next(self, stop: Event) -> Ask | None:
        """Block until the next point of the schedule, which begins with the first call."""
        now_ns = time.monotonic_ns()
        if self._next_ns is None:
            self._next_ns = now_ns
        wait_ns = self._next_ns - now_ns
        if wait_ns > 0 and stop.wait(min(wait_ns, PATIENCE_MS * NS_PER_MS) / 1e9):
            return None
        if wait_ns > PATIENCE_MS * NS_PER_MS:
            return None
        due_ns = self._next_ns
        self._next_ns += self._period_ns
        return Ask(due_ns)

    def close(self) -> None:
        """Nothing to let go of."""


class MessageTriggers:
    """One part per message {"part_id": "..."} on a PULL socket; a message that is not one is logged and counted."""

    def __init__(self, socket: Socket, meters: Meters) -> None:
        self._socket = socket
        self._meters = meters

    def next(self, stop: Event) -> Ask | None:
        """Block for the next message; the part is due when its message is read."""
        if not self._socket.poll(PATIENCE_MS):
            return None
        parts = self._socket.recv_multipart()
        due_ns = time.monotonic_ns()
        try:
            return Ask(due_ns, parse_part_id(parts))
        except ValueError as error:
            self._meters.count(Count.TRIGGERS_REFUSED)
            log.warning("trigger message refused", why=str(error))
            return None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def parse_part_id(parts: list[bytes]) -> str | None:
    """The part_id of a trigger message, None where it is {}. Raises ValueError with one line."""
    if len(parts) != 1:
        raise ValueError(f"expected one frame, got {len(parts)}")
    try:
        message = json.loads(parts[0])
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(message, dict) or not message.keys() <= {"part_id"}:
        raise ValueError('expected {"part_id": "..."}')
    part_id = message.get("part_id")
    if part_id is None:
        return None
    if not isinstance(part_id, str) or not 0 < len(part_id) <= MAX_PART_ID or not part_id.isprintable():
        raise ValueError(f"part_id must be 1 to {MAX_PART_ID} printable characters")
    return part_id
