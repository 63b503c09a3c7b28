"""The first output: ZeroMQ topics result.<station>, reject.<station> and health.<station> on one PUB socket."""

from __future__ import annotations

from inspectd.messages import Action, Verdict
from inspectd.wire.public import (
    Json,
    health_topic,
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
        self._result, self._reject, self._health = result_topic(station), reject_topic(station), health_topic(station)

    def announce(self, verdict: Verdict) -> None:
        """Send the reject signal first, where there is one, then the result."""
        if verdict.action is not Action.ACCEPT:
            self._socket.send_multipart([self._reject, to_bytes(reject(verdict))])
        self._socket.send_multipart([self._result, to_bytes(result(verdict))])

    def heartbeat(self, health: Json) -> None:
        """Send the daemon's health."""
        self._socket.send_multipart([self._health, to_bytes(health)])

    def close(self, health: Json) -> None:
        """The safe state: say that nobody inspects any more, then close; the message has half a second to leave."""
        self.heartbeat(health)
        self._socket.close()
