"""The first output: ZeroMQ topics result, reject, missed and health, each with .<station>, on one PUB socket."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
Messages = Sequence[Sequence[bytes]]
"""Each one topic and content, in the order in which they are sent."""


class Topics:
    """Tells subscribers, and never waits for one: whoever is too slow, or away, asks for what was missed.

    run: the run that the numbers belong to.
    """

    def __init__(self, socket: Socket, station: str, run: str) -> None:
        self._socket, self._run = socket, run
        self._result, self._health = result_topic(station), health_topic(station)
        self._reject, self._missed = reject_topic(station), missed_topic(station)

    def messages(self, verdict: Verdict) -> Messages:
        """What is to be announced: the reject signal first, where there is one and it is not held, then the result."""
        held = verdict.reject is not None and verdict.reject.command is Command.HELD
        signal = [self._signal(verdict)] if verdict.action is not Action.ACCEPT and not held else []
        return [*signal, [self._result, to_bytes(result(verdict, self._run))]]

    def announce(self, messages: Messages) -> None:
        """Send what `messages` made; nothing is left to be done but that."""
        for message in messages:
            self._socket.send_multipart(message)

    def tell_reject(self, verdict: Verdict) -> None:
        """Send the reject signal; one that no part can be hit with any more goes where nobody acts on it."""
        self._socket.send_multipart(self._signal(verdict))

    def heartbeat(self, health: Json) -> None:
        """Send the daemon's health."""
        self._socket.send_multipart([self._health, to_bytes(health)])

    def close(self, health: Json) -> None:
        """The safe state: say that nobody inspects any more, then close; the message has half a second to leave."""
        self.heartbeat(health)
        self._socket.close()

    def _signal(self, verdict: Verdict) -> Sequence[bytes]:
        if verdict.reject is not None and verdict.reject.command is Command.MISSED:
            return [self._missed, to_bytes(missed(verdict, self._run))]
        return [self._reject, to_bytes(reject(verdict, time.monotonic_ns(), self._run))]
