"""`inspectd health`: its line and its exit code for each state that a daemon can answer with, and for silence."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
import zmq
from line_values import settings

from inspectd.__main__ import main
from inspectd.health.heartbeat import Heartbeat, State
from inspectd.health.meters import Meters
from inspectd.wire.public import Json, to_bytes
from inspectd.wire.questions import answer_status

PATIENCE_MS = 10_000


def health(state: State, why: list[str]) -> Json:
    """What a daemon in that state says of itself."""
    message = Heartbeat(Meters(), station="test", bundle_hash="ab", engine="fake", patience_s={}).message()
    return {**message, "state": state.value, "why": why}


def asked(context: zmq.Context[zmq.Socket[bytes]], folder: Path, status: Json, *arguments: str) -> int:
    """The exit code of the command, where a daemon answers so."""
    raw: dict[str, Any] = settings(folder)
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump(raw))
    with context.socket(zmq.REP) as daemon:
        daemon.bind(raw["outputs"]["queries"])

        def answer() -> None:
            if daemon.poll(PATIENCE_MS):
                daemon.recv()
                daemon.send(to_bytes(answer_status(status)))

        answering = Thread(target=answer)
        answering.start()
        code = main(["health", "--station", str(path), "--timeout", "10", *arguments])
        answering.join()
    return code


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.RUNNING, 0),
        (State.DEGRADED, 12),
        (State.STALLED, 10),
        (State.STARTING, 10),
        (State.STOPPING, 10),
        (State.STOPPED, 10),
    ],
)
def test_each_state_has_its_exit_code(
    context: zmq.Context[zmq.Socket[bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    state: State,
    code: int,
) -> None:
    """Running is 0 on standard output; all else is a line on standard error that says why."""
    assert asked(context, tmp_path, health(state, [] if code == 0 else ["the disk is full"])) == code
    printed = capsys.readouterr()
    assert f"test {state.value}, up " in (printed.out if code == 0 else printed.err)
    assert ("the disk is full" in printed.err) == (code != 0)


def test_the_whole_message_as_json(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json prints it whatever the state; the exit code stays."""
    assert asked(context, tmp_path, health(State.DEGRADED, ["disk"]), "--json") == 12
    assert json.loads(capsys.readouterr().out)["why"] == ["disk"]


def test_another_station_on_the_endpoint_is_not_ours(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A healthy daemon of another station does not make this one healthy."""
    assert asked(context, tmp_path, {**health(State.RUNNING, []), "station": "other"}) == 10
    assert "answered by station other" in capsys.readouterr().err


def test_silence_is_an_exit_code_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody answers: 13, within the timeout."""
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    assert main(["health", "--station", str(path), "--timeout", "0.1"]) == 13
    assert "no answer" in capsys.readouterr().err
