"""Clients and a daemon between which a cable was pulled: TCP says nothing of it, and who only listens sends nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from selectors import EVENT_READ, DefaultSelector
from threading import Event, Thread

import pytest
import zmq
from closable import Keep
from line_values import free_port
from zmq.utils.monitor import recv_monitor_message

from inspectd.wire.curve import GONE_AFTER_MS, connect
from inspectd.wire.sockets import HEARTBEAT_MS, bind

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


@pytest.fixture
def bound(context: Context, closed_after: Keep) -> Callable[[int], zmq.Socket[bytes]]:
    """Makes sockets as the daemon binds them."""

    def make(kind: int) -> zmq.Socket[bytes]:
        made = closed_after(bind(context, kind, f"tcp://127.0.0.1:{free_port()}", 10))
        made.linger = 0
        return made

    return make


def port(server: zmq.Socket[bytes]) -> int:
    """Where it listens."""
    return int(server.last_endpoint.decode().rpartition(":")[2])


@pytest.mark.parametrize(("kind", "peer"), [(zmq.PUB, zmq.SUB), (zmq.ROUTER, zmq.DEALER), (zmq.PULL, zmq.PUSH)])
def test_the_daemon_lets_go_of_a_client_whose_cable_was_pulled(
    context: Context, closed_after: Keep, bound: Callable[[int], zmq.Socket[bytes]], kind: int, peer: int
) -> None:
    """On each of its sockets it closes the connection by itself; that of a client that answers stays."""
    server = bound(kind)
    kinds = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    events = closed_after(server.get_monitor_socket(kinds))
    gone, stays = closed_after(context.socket(peer)), closed_after(context.socket(peer))
    with closing(Cable(port(server))) as pulled, closing(Cable(port(server))) as whole:
        descriptors = []
        for client, cable in ((gone, pulled), (stays, whole)):
            client.linger = 0
            client.connect(f"tcp://127.0.0.1:{cable.port}")
            descriptors.append(next_event(events, zmq.EVENT_ACCEPTED))
            next_event(events, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        pulled.pull.set()
        assert pulled.pulled.wait(PATIENCE_S)
        assert next_event(events, zmq.EVENT_DISCONNECTED) == descriptors[0]
        assert not events.poll(2 * HEARTBEAT_MS)
    server.disable_monitor()


def next_event(events: zmq.Socket[bytes], expected: int) -> int:
    """The value of a socket's next event, which is the one expected: mostly its descriptor."""
    assert events.poll(int(PATIENCE_S * 1000))
    found = recv_monitor_message(events)
    assert found["event"] == expected
    return found["value"]


def test_a_client_with_a_name_of_its_own_is_answered_after_its_cable_was_pulled(
    context: Context, closed_after: Keep, bound: Callable[[int], zmq.Socket[bytes]]
) -> None:
    """The newer connection of a name takes over from the one that nobody has missed yet."""
    server = bound(zmq.ROUTER)
    with closing(Cable(port(server))) as cable:
        for by, ends in ((cable.port, cable), (port(server), None)):
            client = closed_after(context.socket(zmq.DEALER))
            client.linger = 0
            client.routing_id = b"plc"
            client.connect(f"tcp://127.0.0.1:{by}")
            client.send(b"question")
            assert server.poll(int(PATIENCE_S * 1000))
            server.send_multipart(server.recv_multipart())
            assert client.poll(int(PATIENCE_S * 1000))
            assert client.recv() == b"question"
            if ends is not None:
                ends.pull.set()
                assert ends.pulled.wait(PATIENCE_S)


def test_the_kernel_looks_after_each_connection_too(
    context: Context, closed_after: Keep, bound: Callable[[int], zmq.Socket[bytes]]
) -> None:
    """TCP keep-alive is on, for peers that know no heartbeat: a dead one is found within half a minute."""
    server = bound(zmq.PUB)
    events = closed_after(server.get_monitor_socket(zmq.EVENT_ACCEPTED))
    with (
        socket.create_connection(("127.0.0.1", port(server)), PATIENCE_S),
        socket.socket(fileno=os.dup(next_event(events, zmq.EVENT_ACCEPTED))) as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (
            accepted.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert idle + interval * count <= 30
    server.disable_monitor()


def heard(publisher: zmq.Socket[bytes], listener: zmq.Socket[bytes], within_s: float) -> bool:
    """Whether something that is published time and again arrives."""
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        publisher.send(b"part")
        if listener.poll(50):
            listener.recv()
            return True
    return False
