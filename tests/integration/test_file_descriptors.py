"""A client that leaks connections, on a daemon with few file descriptors: it lives, says so once, and recovers."""

from __future__ import annotations

import json
import socket as sockets
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from line_values import free_port
from test_daemon import PATIENCE_S, Daemon, daemon

from inspectd.wire.client import ask

Context = zmq.Context[zmq.Socket[bytes]]
FEW = 400
LEAKED = 600
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31)


def with_limit(soft: int, hard: int) -> list[str]:
    """What a daemon is started behind, to have so many file descriptors."""
    return ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh"]


def shake_hands(made: sockets.socket, endpoint: str, kind: bytes) -> None:
    """Connect as a ZeroMQ peer of this kind, which then does nothing. Raises OSError where it is not let in."""
    made.settimeout(PATIENCE_S)
    if endpoint.startswith("tcp://"):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        made.connect((host, int(port)))
    else:
        made.connect(endpoint.removeprefix("ipc://"))
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    made.sendall(GREETING + b"\x04" + bytes([len(body)]) + body)


@contextmanager
def leak(endpoint: str, kind: bytes) -> Iterator[None]:
    """A program that opens one connection after the other, and closes none; what is refused it takes for done."""
    family = sockets.AF_INET if endpoint.startswith("tcp://") else sockets.AF_UNIX
    with ExitStack() as stack:
        for _ in range(LEAKED):
            made = stack.enter_context(sockets.socket(family, sockets.SOCK_STREAM))
            with suppress(OSError):
                shake_hands(made, endpoint, kind)
        yield


def status(running: Daemon) -> dict[str, Any]:
    """The health message, on request."""
    found: dict[str, Any] = ask(running.station.outputs.queries, {"ask": "status"}, PATIENCE_S)[0]["status"]
    return found


def wait_for(met: Callable[[], bool]) -> None:
    """Block until it is so."""
    end_s = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < end_s


def endpoints(transport: str, folder: Path) -> dict[str, str]:
    """Where the daemon's three sockets are."""
    names = ("results", "queries", "triggers")
    if transport == "tcp":
        return {name: f"tcp://127.0.0.1:{free_port()}" for name in names}
    return {name: f"ipc://{folder}/{name}.ipc" for name in names}


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize(("leaky", "kind"), [("results", b"SUB"), ("triggers", b"PUSH")])
def test_a_client_that_leaks_connections_ends_nothing(
    tmp_path: Path, context: Context, transport: str, leaky: str, kind: bytes
) -> None:
    """Those beyond the ceiling are closed; verdicts and answers go on, one line says so; then all may come again."""
    at = endpoints(transport, tmp_path)
    changes = {
        "outputs": {"results": at["results"], "queries": at["queries"]},
        "trigger": {"source": "zmq", "endpoint": at["triggers"]},
    }
    with daemon(tmp_path, prefix=with_limit(FEW, FEW), **changes) as running, context.socket(zmq.PUSH) as source:
        source.linger = 0
        source.connect(at["triggers"])
        source.send(b"{}")
        wait_for(lambda: sum(status(running)["verdicts"].values()) == 1)
        with leak(at[leaky], kind):
            wait_for(lambda: status(running)["counts"]["connections_closed"] > 0)
            assert any("connections" in line for line in status(running)["why"])
            wait_for(lambda: psutil.Process(running.process.pid).num_fds() < FEW // 2)
            source.send(b"{}")
            wait_for(lambda: sum(status(running)["verdicts"].values()) == 2)
        with context.socket(zmq.SUB) as listener:
            listener.linger = 0
            listener.subscribe(b"health.")
            listener.connect(at["results"])
            assert listener.poll(int(PATIENCE_S * 1000))
            assert json.loads(listener.recv_multipart()[1])["station"] == "test"
        code, log = running.end()
    assert code == 0
    told = [line for line in log if "connections" in line["event"] and line["level"] == "warning"]
    assert [line["endpoint"] for line in told] == [at[leaky]]


def test_the_soft_limit_of_file_descriptors_is_raised(tmp_path: Path) -> None:
    """What the system allows is used: a shell's 256 are no reason to turn anybody away."""
    with daemon(tmp_path, prefix=with_limit(256, 1000)) as running:
        assert psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (1000, 1000)
