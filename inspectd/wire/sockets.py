"""Sockets as the pipeline uses them: bounded, never blocking on send, made and closed in the thread that uses them."""

from __future__ import annotations

import errno
import os
import socket as sockets
from collections.abc import Callable
from typing import NoReturn

import zmq

from inspectd.errors import EndpointError, EndpointTaken
from inspectd.wire.errors import WireError
from inspectd.wire.stages import Message, decode, encode

ZERO_COPY_FROM_BYTES = 4096
MAX_FOREIGN_BYTES = 1 << 13
MAX_SUBSCRIPTION_BYTES = 512  # a topic of ours, or a CURVE handshake; each byte of a subscription costs 46 here
WAITING_SUBSCRIPTIONS = 16
HANDSHAKE_MS = 3000
HEARTBEAT_MS, GONE_AFTER_MS = 2_000, 10_000
"""A client from which nothing comes back for so long is gone; it finds out sooner (`curve`), and connects anew."""
KEEPALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 5, zmq.TCP_KEEPALIVE_CNT: 3}
"""The kernel's own look at a connection (seconds, and how often): for peers that speak no heartbeat."""
GOODBYE_MS = 500
SETTINGS = "`outputs` or `trigger.endpoint`"

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def push(context: Context, endpoint: str, bound: int) -> Socket:
    """Connect the sending end of a queue that holds at most `bound` messages (both ends count: see `pull`)."""
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(max(1, bound - 1))
    socket.linger = 0
    socket.copy_threshold = ZERO_COPY_FROM_BYTES
    socket.connect(endpoint)
    return socket


def pull(context: Context, endpoint: str) -> Socket:
    """Bind the receiving end. An inproc queue holds the sum of both ends' marks: one here, the rest at the sender."""
    socket = context.socket(zmq.PULL)
    socket.set_hwm(1)
    socket.linger = 0
    socket.bind(endpoint)
    return socket


def bind(
    context: Context, kind: int, endpoint: str, bound: int, guard: Callable[[Socket], None] | None = None
) -> Socket:
    """Bind a socket that others reach from outside. guard: called before it binds (see `wire.door`).

    Raises EndpointError with one line.
    """
    if _is_taken(endpoint):
        raise _why_not(endpoint, errno.EADDRINUSE)
    socket = context.socket(kind)
    socket.set_hwm(bound)
    if kind == zmq.PUB:
        socket.rcvhwm = WAITING_SUBSCRIPTIONS  # a flood of them must not keep the thread that publishes
    socket.linger = GOODBYE_MS
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES if kind == zmq.PUB else MAX_FOREIGN_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _outlive_clients(socket, kind)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
    try:
        if guard is not None:
            guard(socket)
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        in_the_way = error.errno == errno.EADDRINUSE and endpoint.startswith("ipc://")  # nobody listens there
        raise _why_not(endpoint, errno.EEXIST if in_the_way else error.errno or 0) from error
    return socket


def _outlive_clients(socket: Socket, kind: int) -> None:
    """Let go of clients that vanish without a word, and let one that comes back under its name take its own place."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, GONE_AFTER_MS)
    for option, value in KEEPALIVE.items():
        socket.setsockopt(option, value)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)


def _why_not(endpoint: str, number: int) -> EndpointError:
    """What an endpoint's errno means here, and what mends it; the settings are those that name endpoints."""
    if number == errno.EADDRINUSE:
        return EndpointTaken(f"{endpoint}: {os.strerror(number)}; is another daemon running? change {SETTINGS}")
    hints = {
        errno.ENODEV: f"no network card of this machine has that address or name; change {SETTINGS}",
        errno.EADDRNOTAVAIL: f"no network card of this machine has that address; is it up? change {SETTINGS}",
        errno.EACCES: f"ports below 1024 need a right, paths a folder of this user; change {SETTINGS}",
        errno.EEXIST: f"what lies there is nobody's socket, or not this user's to remove; change {SETTINGS}",
        errno.EPERM: f"this user may not bind it; change {SETTINGS}",
        errno.ENOENT: f"make its folder, or change {SETTINGS}",
        errno.ENOTDIR: f"what it lies in is not a folder; change {SETTINGS}",
    }
    return EndpointError(f"{endpoint}: {os.strerror(number)}; {hints.get(number, f'change {SETTINGS}')}")


def receive_foreign(socket: Socket, most_frames: int) -> list[bytes]:
    """Take the next message from outside, which must be there. Raises WireError where it has more frames than that.

    Frames beyond those are thrown away one by one, so that a message of a million frames makes no list of a million.
    """
    frames = [socket.recv(zmq.DONTWAIT)]
    while socket.getsockopt(zmq.RCVMORE):
        if len(frames) < most_frames:
            frames.append(socket.recv(zmq.DONTWAIT))
        else:
            _too_long(socket, most_frames)
    return frames


def _too_long(socket: Socket, most_frames: int) -> NoReturn:
    count = most_frames
    while socket.getsockopt(zmq.RCVMORE):
        socket.recv(zmq.DONTWAIT, copy=False)
        count += 1
    raise WireError(f"a message of {count} frames, at most {most_frames} are read")


def _is_taken(endpoint: str) -> bool:
    """Whether somebody listens on an ipc endpoint: libzmq would take it from them, not refuse as with tcp."""
    if not endpoint.startswith("ipc://"):
        return False
    path = endpoint.removeprefix("ipc://")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
        except BlockingIOError:
            return True  # a listener whose queue is full
        except OSError:
            return False  # nothing there, or what a killed daemon left; other faults are for `bind` to tell
    return True


def send(socket: Socket, message: Message) -> bool:
    """Hand a message on without blocking or copying its arrays; False where the queue is full."""
    parts = encode(message)
    try:
        socket.send_multipart(parts, flags=zmq.DONTWAIT, copy=False)
    except zmq.Again:
        if not socket.poll(0, zmq.POLLOUT):  # asking makes libzmq look again for room that was made
            return False
        socket.send_multipart(parts, flags=zmq.DONTWAIT, copy=False)
    return True


def has_room(socket: Socket) -> bool:
    """Whether the queue behind a sending end takes one more message."""
    return bool(socket.poll(0, zmq.POLLOUT))


def receive(socket: Socket) -> Message | None:
    """Take the next message without blocking; None where there is none. Raises WireError."""
    try:
        parts = socket.recv_multipart(flags=zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    return decode([part.buffer for part in parts])
