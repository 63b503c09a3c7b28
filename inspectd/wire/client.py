"""The asking side of the query socket: for commands and tools."""

from __future__ import annotations

from typing import Any

import zmq

from inspectd.errors import NoAnswer
from inspectd.wire.errors import WireError
from inspectd.wire.public import Json, from_bytes, to_bytes
from inspectd.wire.sockets import Context


def ask(endpoint: str, question: dict[str, Any], timeout_s: float) -> tuple[Json, bytes]:
    """Ask a running daemon; returns the answer and, for a map, its bytes. Blocks for up to `timeout_s`.

    Raises NoAnswer where nobody answers, WireError for a refusal or an answer that cannot be read.
    """
    context: Context = zmq.Context()
    try:
        with context.socket(zmq.REQ) as socket:
            socket.linger = 0
            try:
                socket.connect(endpoint)
            except zmq.ZMQError as error:
                raise NoAnswer(f"{endpoint}: {error.strerror}") from error
            socket.send(to_bytes(question))
            if not socket.poll(round(timeout_s * 1000)):
                raise NoAnswer(f"no answer from {endpoint} within {timeout_s:g} s: the daemon is down or hangs")
            answer, *rest = socket.recv_multipart()
    finally:
        context.term()
    message = from_bytes(answer, "inspectd.answer")
    if message.get("answer") == "error":
        raise WireError(f"{endpoint} refused: {message.get('error')}")
    return message, rest[0] if rest else b""
