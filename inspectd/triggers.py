"""What asks for a part: an absolute timer, messages on a ZeroMQ socket, or the camera itself. Tells the encoder too."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

import structlog

from inspectd.health.meters import Count, Meters
from inspectd.messages import Position
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive_foreign

MAX_PART_ID = 128
MAX_AGE_MS = 60_000
MAX_COUNT = 1 << 53  # what every JSON reader takes for an exact integer
PATIENCE_MS = 100
NS_PER_MS = 1_000_000
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a part: when it was due (monotonic clock), its name and the belt's count where they are known."""

    due_ns: int
    part_id: str | None = None
    encoder: int | None = None


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

    def waits(self) -> bool:
        """Nothing: a schedule ends where it is stopped."""
        return False

    def close(self) -> None:
        """Nothing to let go of."""


class MessageTriggers:
    """Trigger and position messages on a PULL socket (`parse_message`); any other is logged and counted."""

    def __init__(self, socket: Socket, meters: Meters) -> None:
        self._socket = socket
        self._meters = meters

    def next(self, stop: Event) -> Ask | Position | None:
        """Block for the next message; it speaks of the moment at which it is read, less the age that it states."""
        if not self._socket.poll(PATIENCE_MS):
            return None
        read_ns = time.monotonic_ns()
        try:
            return parse_message(receive_foreign(self._socket, 1), read_ns)
        except (ValueError, WireError) as error:
            self._meters.count(Count.TRIGGERS_REFUSED)
            log.warning("trigger message refused", why=str(error))
            return None

    def waits(self) -> bool:
        """Whether a message has come."""
        return bool(self._socket.poll(0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def parse_message(parts: list[bytes], read_ns: int) -> Ask | Position:
    """A trigger {"part_id", "encoder", "age_ms"}, each optional, or a position {"position", "age_ms"}.

    read_ns: monotonic clock when the message was read. Raises ValueError with one line.
    """
    message = _object(parts)
    at_ns = read_ns - _age_ns(message.pop("age_ms", None))
    if "position" in message:
        count = _count(message.pop("position"), "position")
        if count is None or message:
            raise ValueError('a position is {"position": count}, with age_ms or without')
        return Position(count=count, at_ns=at_ns)
    part_id, encoder = message.pop("part_id", None), _count(message.pop("encoder", None), "encoder")
    if message:
        raise ValueError("a trigger has part_id, encoder and age_ms, each optional, and nothing else")
    if part_id is None:
        return Ask(at_ns, None, encoder)
    if not isinstance(part_id, str) or not 0 < len(part_id) <= MAX_PART_ID or not part_id.isprintable():
        raise ValueError(f"part_id must be 1 to {MAX_PART_ID} printable characters")
    return Ask(at_ns, part_id, encoder)


def _object(parts: list[bytes]) -> dict[str, Any]:
    if len(parts) != 1:
        raise ValueError(f"expected one frame, got {len(parts)}")
    try:
        message = json.loads(parts[0])
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def _count(value: object, name: str) -> int | None:
    if value is not None and (type(value) is not int or abs(value) > MAX_COUNT):
        raise ValueError(f"{name} must be a whole number of at most 2^53")
    return value


def _age_ns(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_AGE_MS:
        raise ValueError(f"age_ms must be a number from 0 to {MAX_AGE_MS}")
    return round(value * NS_PER_MS)
