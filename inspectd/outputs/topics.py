"""The first output: ZeroMQ topics result, reject, missed and health, each with .<station>, on one PUB socket."""

from __future__ import annotations

import time

from inspectd.messages import Action, Command, Verdict
from inspectd.wire.public import (
    Json,
    health_topic,
    missed,
    missed_topic,
    reject,
    reject_topic,
    result,
    result_topic,
    to_bytes,
)
from inspectd.wire.sockets import Socket

PUBLISHED_BOUND = 10_000


class Topics:
    """Tells subscribers, and never waits for one: whoever is too slow, or away, asks for what was missed."""

    def __init__(self, socket: Socket, station: str) -> None:
        self._socket = socket
        self._result, self._health = result_topic(station), health_topic(station)
        self._reject, self._missed = reject_topic(station), missed_topic(station)

    def announce(self, verdict: Verdict) -> None:
        """Send the reject signal first, where there is one and it is not held, then the result."""
        held = verdict.reject is not None and verdict.reject.command is Command.HELD
        if verdict.action is not Action.ACCEPT and not held:
            self.tell_reject(verdict)
        self._socket.send_multipart([self._result, to_bytes(result(verdict))])

    def tell_reject(self, verdict: Verdict) -> None:
        """Send the reject signal; one that no part can be hit with any more goes where nobody acts on it."""
        if verdict.reject is not None and verdict.reject.command is Command.MISSED:
            self._socket.send_multipart([self._missed, to_bytes(missed(verdict))])
        else:
            self._socket.send_multipart([self._reject, to_bytes(reject(verdict, time.monotonic_ns()))])

    def heartbeat(self, health: Json) -> None:
        """Send the daemon's health."""
        self._socket.send_multipart([self._health, to_bytes(health)])

    def close(self, health: Json) -> None:
        """The safe state: say that nobody inspects any more, then close; the message has half a second to leave."""
        self.heartbeat(health)
        self._socket.close()
