"""CURVE on a socket: what the daemon sets, what a client sets, and why a client is not let in."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from inspectd.errors import EndpointError
from inspectd.wire.keys import ClientKey, KeyPair
from inspectd.wire.sockets import Socket

DOMAIN = b"inspectd"
REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
BROKEN_OFF_IN_A_ROW = 3
HEARTBEAT_MS, GONE_AFTER_MS = 1_000, 5_000
"""A client that only listens never finds out by itself that a cable was pulled: TCP is silent about it."""


def is_tcp(endpoint: str) -> bool:
    """CURVE is for TCP; ipc endpoints are guarded by the permissions of their files."""
    return endpoint.startswith("tcp://")


def as_server(socket: Socket, pair: KeyPair) -> None:
    """Let in only whom the ZAP handler knows. Without one nobody is: libzmq alone would then encrypt and let in all."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def connect(socket: Socket, endpoint: str, key: ClientKey | None) -> Handshakes:
    """Connect a client's socket, with its key where the endpoint is TCP; does not wait for the daemon.

    A connection over which nothing comes back for GONE_AFTER_MS is given up, and made anew.
    Raises EndpointError for an address that ZeroMQ does not take. Close what it returns before the socket.
    """
    handshakes = Handshakes(socket, endpoint, key if is_tcp(endpoint) else None)
    try:
        if key is not None and is_tcp(endpoint):
            socket.setsockopt(zmq.CURVE_PUBLICKEY, key.pair.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, key.pair.secret)
            socket.setsockopt(zmq.CURVE_SERVERKEY, key.server)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, GONE_AFTER_MS)
        if "[" in endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        socket.connect(reachable(endpoint))
    except zmq.ZMQError as error:
        handshakes.close()
        raise EndpointError(f"{endpoint}: {error.strerror}") from error
    return handshakes


def reachable(endpoint: str) -> str:
    """The address under which this machine reaches an endpoint that may be bound to all of its addresses."""
    for all_addresses, loopback in (("tcp://*:", "tcp://127.0.0.1:"), ("tcp://0.0.0.0:", "tcp://127.0.0.1:")):
        if endpoint.startswith(all_addresses):
            return loopback + endpoint.removeprefix(all_addresses)
    return endpoint.replace("tcp://[::]:", "tcp://[::1]:")


class Handshakes:
    """Says why the daemon does not let a client in, which ZeroMQ itself keeps silent about. Used by one thread."""

    def __init__(self, socket: Socket, endpoint: str, key: ClientKey | None) -> None:
        self._socket = socket
        self._endpoint, self._key = endpoint, key
        self._broken_off = 0
        self._fault = ""
        succeeded_or_not = REFUSALS | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._events = socket.get_monitor_socket(succeeded_or_not)

    def check(self) -> None:
        """Raise EndpointError, one line, once the daemon is sure not to let this client in; does not block."""
        while self._events.poll(0):
            self._take(zmq.Event(recv_monitor_message(self._events)["event"]))
        if self._fault:
            raise EndpointError(f"{self._endpoint}: {self._fault}")

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        if not self._events.closed:
            self._socket.disable_monitor()
            self._events.close(linger=0)

    def _take(self, event: zmq.Event) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._broken_off = 0
            return
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._fault = (
                f"refused: the key {self._shown()} is not on the allow-list; make it with `inspectd keys client` there"
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._fault = (
                "refused: the daemon lets in only clients with a key; name it with --key"
                if self._key is None
                else f"the daemon there has no key (security.curve: off), so {self._shown()} is of no use"
            )
        else:
            self._broken_off += 1
            if self._broken_off >= BROKEN_OFF_IN_A_ROW and self._key is not None:
                self._fault = (
                    f"refused: {self._shown()} is not on the allow-list, or meant for a daemon with another key; "
                    "make it anew with `inspectd keys client` there"
                )

    def _shown(self) -> str:
        return "" if self._key is None else str(self._key.file)
