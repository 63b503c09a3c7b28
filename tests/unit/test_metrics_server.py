"""HTTP on the loopback: bounded, whoever connects to it."""

from __future__ import annotations

import socket as sockets
import urllib.request
from contextlib import ExitStack, closing

from inspectd.health.http import MOST_CLIENTS, MetricsServer

PATIENCE_S = 30.0


def server() -> MetricsServer:
    """On a free port."""
    return MetricsServer(0, metrics=lambda: b"all well\n", ready=lambda: (True, "running"))


def read(port: int) -> bytes:
    """The page of metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        content: bytes = answer.read()
    return content


def test_clients_beyond_the_bound_are_closed_and_it_answers_again_once_others_go() -> None:
    """Connections that ask nothing take no more threads and descriptors than are set aside."""
    with closing(server()) as running:
        with ExitStack() as leaked:
            made = [
                leaked.enter_context(sockets.create_connection(("127.0.0.1", running.port), PATIENCE_S))
                for _ in range(2 * MOST_CLIENTS)
            ]
            for connection in made[MOST_CLIENTS:]:
                assert connection.recv(1) == b""
        while True:
            try:
                assert read(running.port) == b"all well\n"
                break
            except OSError:
                continue
