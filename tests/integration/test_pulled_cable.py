"""A client whose cable was pulled: TCP says nothing of it, and a subscriber sends nothing that could fail."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from selectors import EVENT_READ, DefaultSelector
from threading import Event, Thread

import pytest
import zmq
from closable import Keep

from inspectd.wire.curve import GONE_AFTER_MS, connect

PATIENCE_S = 30.0
Context = zmq.Context[zmq.Socket[bytes]]


class Cable:
    """Passes bytes on between who connects and the daemon. Pulled, it keeps each connection and passes nothing more;
    connections that are made afterwards go through again."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._selector = DefaultSelector()
        self._selector.register(self._server, EVENT_READ)
        self._sockets: list[socket.socket] = []
        self.pull, self.pulled, self._end = Event(), Event(), Event()
        self._thread = Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of everything."""
        self._end.set()
        self._thread.join(PATIENCE_S)
        for each in (self._server, *self._sockets):
            each.close()
        self._selector.close()

    def _carry(self) -> None:
        while not self._end.is_set():
            if self.pull.is_set() and not self.pulled.is_set():
                for each in self._sockets:
                    with suppress(KeyError):
                        self._selector.unregister(each)
                self.pulled.set()
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._server:
                    self._plug_in()
                else:
                    self._pass_on(key.fileobj, key.data)  # type: ignore[arg-type]

    def _plug_in(self) -> None:
        here, _ = self._server.accept()
        there = socket.create_connection(("127.0.0.1", self._to_port))
        self._sockets += [here, there]
        self._selector.register(here, EVENT_READ, there)
        self._selector.register(there, EVENT_READ, here)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            if data := source.recv(65_536):
                target.sendall(data)
                return
        for each in (source, target):
            with suppress(KeyError):
                self._selector.unregister(each)
            each.close()


@pytest.fixture
def publisher(context: Context, closed_after: Keep) -> zmq.Socket[bytes]:
    """What a daemon publishes on."""
    made = closed_after(context.socket(zmq.PUB))
    made.linger = 0
    made.bind("tcp://127.0.0.1:*")
    return made


@pytest.fixture
def cable(publisher: zmq.Socket[bytes]) -> Iterator[Cable]:
    """A cable to it."""
    made = Cable(int(publisher.last_endpoint.decode().rpartition(":")[2]))
    yield made
    made.close()


def test_a_listener_comes_back_after_its_cable_was_pulled(
    context: Context, closed_after: Keep, publisher: zmq.Socket[bytes], cable: Cable
) -> None:
    """It notices by itself within seconds, connects anew and hears again."""
    listener = closed_after(context.socket(zmq.SUB))
    listener.linger = 0
    listener.subscribe(b"")
    with closing(connect(listener, f"tcp://127.0.0.1:{cable.port}", None)):
        assert heard(publisher, listener, PATIENCE_S)
        cable.pull.set()
        assert cable.pulled.wait(PATIENCE_S)
        while listener.poll(200):  # what was on its way
            listener.recv()
        assert heard(publisher, listener, PATIENCE_S + GONE_AFTER_MS / 1e3)


def heard(publisher: zmq.Socket[bytes], listener: zmq.Socket[bytes], within_s: float) -> bool:
    """Whether something that is published time and again arrives."""
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        publisher.send(b"part")
        if listener.poll(50):
            listener.recv()
            return True
    return False
