"""Nobody else gets in: the daemon's process with CURVE, clients with and without a key, and what each of them is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq
from line_values import free_port
from line_values import settings as raw_settings
from test_daemon import NOTICE_S, PATIENCE_S, ROOT, Daemon, daemon

from inspectd.__main__ import main
from inspectd.errors import EndpointError, NoAnswer
from inspectd.wire.client import ask
from inspectd.wire.curve import Handshakes, connect
from inspectd.wire.key_files import KeyFolder
from inspectd.wire.keys import ClientKey, KeyPair, new_pair, read_client_key

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A station's keys: the daemon's, this machine's, and those of a client `plc`."""
    made = KeyFolder(tmp_path / "keys" / "test", "test")
    made.make_server(force=False)
    made.make_client("plc", tmp_path / "plc.key_secret", force=False)
    return made


@pytest.fixture
def plc(keys: KeyFolder, tmp_path: Path) -> ClientKey:
    """The key of the client `plc`."""
    return read_client_key(tmp_path / "plc.key_secret")


@pytest.fixture
def subscriber(context: Context) -> Iterator[Callable[[str, ClientKey | None], tuple[zmq.Socket[bytes], Handshakes]]]:
    """Makes subscribers to everything, and closes them."""
    made: list[tuple[zmq.Socket[bytes], Handshakes]] = []

    def subscribe(endpoint: str, key: ClientKey | None) -> tuple[zmq.Socket[bytes], Handshakes]:
        socket = context.socket(zmq.SUB)
        socket.subscribe(b"")
        made.append((socket, connect(socket, endpoint, key)))
        return made[-1]

    yield subscribe
    for socket, handshakes in made:
        handshakes.close()
        socket.close(linger=0)


def curve(folder: Path) -> dict[str, Any]:
    """The settings of a station that asks for keys."""
    return {"security": {"curve": "required", "keys": str(folder / "keys")}}


def raw(folder: Path, **changes: Any) -> None:
    """Write the station's settings; a section that the base settings lack is added."""
    (folder / "test.yaml").write_text(yaml.safe_dump({**raw_settings(folder), **curve(folder), **changes}))


def refused(running: Daemon, key: ClientKey) -> int:
    """How many clients the daemon has turned away."""
    status = ask(running.station.outputs.queries, {"ask": "status"}, PATIENCE_S, key)[0]["status"]
    return int(status["counts"]["clients_refused"])


def stranger(plc: ClientKey) -> ClientKey:
    """A key that nobody allowed."""
    return ClientKey(new_pair(), plc.server, Path("stranger.key_secret"))


def mistaken(plc: ClientKey) -> ClientKey:
    """An allowed key, and another daemon's public key beside it."""
    return ClientKey(plc.pair, new_pair().public, Path("mistaken.key_secret"))


def no_key(plc: ClientKey) -> None:
    """A client that speaks plain ZeroMQ."""


@pytest.mark.parametrize(
    ("intruder", "told"),
    [
        (stranger, "stranger.key_secret is not on the allow-list"),
        (mistaken, "mistaken.key_secret is meant for a daemon with another key"),
        (no_key, "lets in only clients with a key"),
    ],
)
def test_an_allowed_client_gets_results_and_an_intruder_nothing(
    tmp_path: Path,
    plc: ClientKey,
    subscriber: Callable[[str, ClientKey | None], tuple[zmq.Socket[bytes], Handshakes]],
    intruder: Callable[[ClientKey], ClientKey | None],
    told: str,
) -> None:
    """On results and queries: the PLC is served; whoever has no key of ours hears why, gets nothing, and is counted."""
    raw(tmp_path)
    with daemon(tmp_path) as running:
        outputs = running.station.outputs
        theirs, handshakes = subscriber(outputs.results, intruder(plc))
        ours, _ = subscriber(outputs.results, plc)
        assert ours.poll(int(PATIENCE_S * 1000))
        assert json.loads(ours.recv_multipart()[1])["station"] == "test"
        with pytest.raises(NoAnswer, match=told):
            ask(outputs.queries, {"ask": "status"}, PATIENCE_S, intruder(plc))
        with pytest.raises(EndpointError, match=told):
            while True:
                handshakes.check()
        assert refused(running, plc) >= 2
        assert not theirs.poll(0)
        code, log = running.end()
    assert code == 0
    assert [line for line in log if line["event"] == "client refused"]
