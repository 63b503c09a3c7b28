"""Sockets that others reach: an endpoint that somebody uses is refused, what a killed daemon left is not."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from inspectd.errors import EndpointError
from inspectd.wire.sockets import Context, bind


@pytest.fixture
def context() -> Iterator[Context]:
    """A context that ends with the test."""
    context: Context = zmq.Context()
    yield context
    context.term()


@pytest.mark.parametrize("abstract", [False, True])
def test_an_ipc_endpoint_in_use_is_refused_and_stays_with_its_owner(
    tmp_path: Path, context: Context, abstract: bool
) -> None:
    """The second daemon gets one line; the first one is still heard by who connects afterwards."""
    endpoint = f"ipc://{'@' if abstract else ''}{tmp_path}/results.ipc"
    with closing(bind(context, zmq.PULL, endpoint, 10)) as owner, closing(context.socket(zmq.PUSH)) as client:
        with pytest.raises(EndpointError, match="Address already in use"):
            bind(context, zmq.PULL, endpoint, 10)
        client.connect(endpoint)
        client.send(b"still there")
        assert owner.poll(5_000)
        assert owner.recv() == b"still there"


def test_what_a_killed_daemon_left_is_taken_over(tmp_path: Path, context: Context) -> None:
    """A socket file that nobody listens on does not keep the next daemon from starting."""
    path = tmp_path / "results.ipc"
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as left:
        left.bind(str(path))
    assert path.exists()
    bind(context, zmq.PULL, f"ipc://{path}", 10).close()
