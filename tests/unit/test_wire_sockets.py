"""Sockets that others reach: an endpoint that somebody uses is refused, what a killed daemon left is not."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq
from line_values import free_port, station

from inspectd.commands.running import refuse_while_running
from inspectd.errors import EndpointError, EndpointTaken, StationBusy
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


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("tcp://10.255.255.254:5599", "no network card of this machine has that address"),
        ("tcp://no-such-card:5599", "no network card of this machine has that address"),
        ("ipc://{folder}/missing/results", "make its folder"),
        ("ipc://{folder}/file/results", "is not a folder"),
        ("ipc://{folder}", "what lies there is nobody's socket"),
    ],
)
def test_a_fault_of_an_endpoint_gets_the_hint_that_mends_it(
    tmp_path: Path, context: Context, endpoint: str, hint: str
) -> None:
    """Only an address that is taken is a reason to look for another daemon."""
    (tmp_path / "file").touch()
    with pytest.raises(EndpointError) as caught:
        bind(context, zmq.PULL, endpoint.format(folder=tmp_path), 10)
    assert hint in str(caught.value)
    assert "another daemon" not in str(caught.value)


def test_an_endpoint_that_is_taken_names_the_settings(context: Context) -> None:
    """Results, queries and triggers have one each, in two sections."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    said = r"another daemon.*`outputs`.*`trigger.endpoint`"
    with closing(bind(context, zmq.PULL, endpoint, 10)), pytest.raises(EndpointTaken, match=said):
        bind(context, zmq.PULL, endpoint, 10)


def test_only_a_taken_endpoint_means_that_a_daemon_runs(tmp_path: Path) -> None:
    """A folder that is missing is told as that, not as a station that inspects."""
    endpoint = f"ipc://{tmp_path}/missing/queries"
    idle = station(tmp_path, outputs={"queries": endpoint})
    with pytest.raises(EndpointError, match="make its folder"):
        refuse_while_running(idle, "wait")
    (tmp_path / "missing").mkdir()
    refuse_while_running(idle, "wait")
    context: Context = zmq.Context()
    with closing(bind(context, zmq.ROUTER, endpoint, 10)), pytest.raises(StationBusy, match="seems to be inspecting"):
        refuse_while_running(idle, "wait")
    context.term()
