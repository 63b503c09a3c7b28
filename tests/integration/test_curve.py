"""Nobody else gets in: the daemon's process with CURVE, clients with and without a key, and what each is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from inspectd.wire.curve import Handshakes, as_server, connect
from inspectd.wire.key_files import KeyFolder
from inspectd.wire.keys import ClientKey, KeyPair, new_pair, read_client_key

Context = zmq.Context[zmq.Socket[bytes]]
SLOW = {"period_ms": 20}  # so that a busy machine has time for handshakes


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
    (folder / "test.yaml").write_text(
        yaml.safe_dump({**raw_settings(folder, trigger=SLOW), **curve(folder), **changes})
    )


def refused(running: Daemon, key: ClientKey) -> int:
    """How many clients the daemon has turned away."""
    status = ask(running.station.outputs.queries, {"ask": "status"}, PATIENCE_S, key)[0]["status"]
    return int(status["counts"]["clients_refused"])


def again_and_again(call: Callable[[], object]) -> None:
    """Call until it raises: the daemon needs a moment to turn somebody away. Returns where it never does."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        call()


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
        (mistaken, "mistaken.key_secret is not on the allow-list, or meant for a daemon with another key"),
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
            again_and_again(handshakes.check)
        assert refused(running, plc) >= 2
        assert not theirs.poll(0)
        code, log = running.end()
    assert code == 0
    assert 1 <= sum(line["event"] == "client refused" for line in log) <= 2  # once a minute and address, or endpoint


def test_a_revoked_client_is_refused_without_a_restart(tmp_path: Path, keys: KeyFolder, plc: ClientKey) -> None:
    """Served, revoked, refused within seconds at its next connection; allowed again, served again."""
    raw(tmp_path)
    allowed = keys.allowed("plc")
    with daemon(tmp_path) as running:
        queries = running.station.outputs.queries
        assert ask(queries, {"ask": "status"}, PATIENCE_S, plc)[0]["answer"] == "status"
        text = allowed.read_text()
        assert main(["keys", "revoke", "plc", "--station", str(running.path)]) == 0
        with pytest.raises(NoAnswer, match="not on the allow-list"):
            again_and_again(lambda: ask(queries, {"ask": "status"}, PATIENCE_S, plc))
        allowed.write_text(text)
        answer = None
        while answer is None:
            with suppress(NoAnswer):
                answer = ask(queries, {"ask": "status"}, PATIENCE_S, plc)[0]
        assert answer["answer"] == "status"


def test_triggers_come_only_from_who_has_a_key(tmp_path: Path, context: Context, plc: ClientKey) -> None:
    """Parts are asked for by a PUSH socket with the PLC's key; those of a stranger and of a plain one never count."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    raw(tmp_path, trigger={"source": "zmq", "endpoint": endpoint})
    with daemon(tmp_path) as running:
        for number, key in enumerate((stranger(plc), None, plc)):
            with context.socket(zmq.PUSH) as socket:
                socket.linger = 0
                handshakes = connect(socket, endpoint, key)
                try:
                    socket.send(json.dumps({"part_id": f"from-{number}"}).encode())
                    if key is plc:
                        assert served(running, plc)["last_seq"] == 1
                    else:
                        with pytest.raises(EndpointError, match="refused"):
                            again_and_again(handshakes.check)
                finally:
                    handshakes.close()
        question = {"ask": "results", "from_seq": 1, "to_seq": 1}
        results: list[Any] = []
        while not results:  # recorded a moment after it was announced
            results = ask(running.station.outputs.queries, question, PATIENCE_S, plc)[0]["results"]
        assert [result["part_id"] for result in results] == ["from-2"]
        assert refused(running, plc) >= 2


def served(running: Daemon, key: ClientKey) -> dict[str, Any]:
    """The daemon's status once it has judged a part."""
    status: dict[str, Any] = {"last_seq": None}
    while status["last_seq"] is None:
        status = ask(running.station.outputs.queries, {"ask": "status"}, PATIENCE_S, key)[0]["status"]
    return status


def test_our_own_commands_come_in_by_themselves(tmp_path: Path, keys: KeyFolder, capsys: Any) -> None:
    """check, health and watch use the keys, also where the station listens on every address; without them: one line."""
    outputs = {name: f"tcp://0.0.0.0:{free_port()}" for name in ("results", "queries")}
    raw(tmp_path, outputs=outputs)
    main(["check", "--station", str(tmp_path / "test.yaml")])
    assert "clients allowed through TCP: 2" in capsys.readouterr().out
    with daemon(tmp_path) as running:
        station = ["--station", str(running.path)]
        assert main(["health", *station, "--timeout", "30"]) == 0
        assert main(["watch", *station, "--max-parts", "3"]) == 0
        (keys.path / "local.key_secret").unlink()
        capsys.readouterr()
        assert main(["watch", *station, "--max-parts", "3"]) == 3
    assert "local.key_secret: no such key" in capsys.readouterr().err


def test_the_bridge_takes_its_key_and_says_why_it_is_refused(tmp_path: Path, plc: ClientKey) -> None:
    """With --key it follows and asks; without, it ends with 7 and one line that says why."""
    raw(tmp_path)
    with daemon(tmp_path) as running:
        outputs = running.station.outputs
        command = [sys.executable, str(ROOT / "tools" / "plc_bridge.py"), "--station", "test", "--max-parts", "20"]
        command += ["--results", outputs.results, "--queries", outputs.queries, "--last-seq", "0"]
        served_by_key, refused_without = (
            subprocess.run([*command, *key], capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT)
            for key in (["--key", str(plc.file)], [])
        )
    assert served_by_key.returncode == 0
    assert [int(line.split()[0]) for line in served_by_key.stdout.splitlines()][:20] == list(range(1, 21))
    assert refused_without.returncode == 7
    *before, why = refused_without.stderr.splitlines()
    assert "lets in only clients with a key" in why
    assert set(before) <= {"silent: no heartbeat; nobody inspects"}  # a busy machine may take so long to refuse it


@pytest.mark.parametrize("fault", ["missing", "readable by others", "a damaged client"])
def test_a_daemon_without_good_keys_does_not_start(tmp_path: Path, keys: KeyFolder, fault: str) -> None:
    """Exit code 3 and one line that names the file and what to do; nothing has listened in plain text meanwhile."""
    raw(tmp_path)
    file = keys.path / "server.key_secret"
    if fault == "missing":
        file.unlink()
    elif fault == "readable by others":
        file.chmod(0o640)
    else:
        file = keys.allowed("plc")
        file.write_text("nothing")
    made = Daemon(tmp_path, score=0.1, max_parts=1, engine_ms=0.0)
    try:
        _, log = made.process.communicate(timeout=NOTICE_S)
    finally:
        made.close()
    assert made.process.returncode == 3
    said = [line for line in log.splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert str(file) in said[0]


def test_plain_tcp_for_other_machines_must_be_asked_for_in_words(tmp_path: Path, capsys: Any) -> None:
    """tcp://0.0.0.0 without keys: run and check refuse with 3 and say both ways out; with `anywhere` it is taken."""
    outputs = {"results": f"tcp://0.0.0.0:{free_port()}", "queries": f"tcp://127.0.0.1:{free_port()}"}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({**raw_settings(tmp_path), "outputs": outputs}))
    for command in ("run", "check"):
        assert main([command, "--station", str(path)]) == 3
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "security.curve: required" in said
        assert "security.plain_tcp: anywhere" in said
    path.write_text(
        yaml.safe_dump({**raw_settings(tmp_path), "outputs": outputs, "security": {"plain_tcp": "anywhere"}})
    )
    assert main(["check", "--station", str(path)]) == 4  # no bundle here, but the settings are taken


def test_nobody_is_let_in_where_nobody_can_answer_who_may(context: Context) -> None:
    """A CURVE socket without its ZAP handler lets in no one: libzmq alone would encrypt, and let in all."""
    pair = new_pair()
    with context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        server.linger = client.linger = 0
        as_server(server, pair)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        key = ClientKey(KeyPair(*zmq.curve_keypair()), pair.public, Path("any"))
        handshakes = connect(client, f"tcp://127.0.0.1:{port}", key)
        try:
            client.send(b"let me in")
            with pytest.raises(EndpointError, match="refused"):
                again_and_again(handshakes.check)
            assert not server.poll(0)
        finally:
            handshakes.close()
