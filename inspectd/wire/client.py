"""The asking side of the query socket: for commands and tools."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import zmq

from inspectd.errors import EndpointError, NoAnswer
from inspectd.wire.curve import Handshakes, connect
from inspectd.wire.errors import WireError
from inspectd.wire.keys import ClientKey
from inspectd.wire.public import Json, from_bytes, to_bytes
from inspectd.wire.sockets import Context, Socket

TURN_MS = 50


def ask(endpoint: str, question: dict[str, Any], timeout_s: float, key: ClientKey | None = None) -> tuple[Json, bytes]:
    """Ask a running daemon; returns the answer and, for a map, its bytes. Blocks for up to `timeout_s`.

    key: needed where the daemon lets in only clients with one. Raises NoAnswer where nobody answers, or the daemon does
    not let this client in, WireError for a refusal or an answer that cannot be read.
    """
    context: Context = zmq.Context()
    try:
        with context.socket(zmq.REQ) as socket:
            socket.linger = 0
            with closing(connect(socket, endpoint, key)) as handshakes:
                socket.send(to_bytes(question))
                _wait(socket, handshakes, timeout_s)
            answer, *rest = socket.recv_multipart()
    except EndpointError as error:
        raise NoAnswer(str(error)) from error
    except TimeoutError:
        raise NoAnswer(f"no answer from {endpoint} within {timeout_s:g} s: the daemon is down or hangs") from None
    finally:
        context.term()
    message = from_bytes(answer, "inspectd.answer")
    if message.get("answer") == "error":
        raise WireError(f"{endpoint} refused: {message.get('error')}")
    return message, rest[0] if rest else b""


def _wait(socket: Socket, handshakes: Handshakes, timeout_s: float) -> None:
    """Block until the answer is there. Raises TimeoutError, EndpointError."""
    end_s = time.monotonic() + timeout_s
    while not socket.poll(min(TURN_MS, max(0, round((end_s - time.monotonic()) * 1000)))):
        handshakes.check()
        if time.monotonic() >= end_s:
            raise TimeoutError
