"""Key files and `inspectd keys`: what is made, who may read it, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml
import zmq
import zmq.auth
from line_values import settings, station

from inspectd.__main__ import main
from inspectd.errors import KeysError
from inspectd.sections import on_loopback
from inspectd.wire.curve import reachable
from inspectd.wire.key_files import KeyFolder
from inspectd.wire.keys import (
    ClientKey,
    KeyPair,
    allowed_clients,
    client_text,
    new_pair,
    read_client_key,
    read_public_key,
    read_server_key,
)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A station's key folder with the daemon's key."""
    made = KeyFolder(tmp_path / "keys" / "test", "test")
    made.make_server(force=False)
    return made


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_for_their_owner_alone(keys: KeyFolder, tmp_path: Path) -> None:
    """Whatever the umask, secret files are 0600, and no other file of the folder holds a secret."""
    before = os.umask(0)
    try:
        out = tmp_path / "plc.key_secret"
        keys.make_client("plc", out, force=False)
    finally:
        os.umask(before)
    assert mode(out) == mode(keys.path / "server.key_secret") == mode(keys.path / "local.key_secret") == 0o600
    for file in keys.path.rglob("*.key"):
        assert "secret-key" not in file.read_text()
    assert not list(keys.path.rglob(".*"))


def test_a_client_carries_one_file(keys: KeyFolder, tmp_path: Path) -> None:
    """The client's file holds its pair and the daemon's public key; the allow-list its public key and its name."""
    out = tmp_path / "plc.key_secret"
    pair = keys.make_client("plc", out, force=False)
    read = read_client_key(out)
    assert read == ClientKey(pair, read_server_key(keys.path).public, out)
    allowed, faults = allowed_clients(keys.path)
    assert allowed[pair.public] == "plc"
    assert set(allowed.values()) == {"plc", "local"}
    assert faults == []


def test_the_files_are_those_of_zeromq(keys: KeyFolder, tmp_path: Path) -> None:
    """zmq.auth reads ours, and we read those that zmq.auth makes."""
    ours = zmq.auth.load_certificate(keys.path / "server.key_secret")
    pair = read_server_key(keys.path)
    assert ours == (pair.public, pair.secret)
    public, _ = zmq.auth.create_certificates(tmp_path, "theirs")
    assert read_public_key(Path(public)) == zmq.auth.load_certificate(public)[0]


def test_a_pair_never_shows_its_secret() -> None:
    """Neither in a log nor in a traceback."""
    pair = new_pair()
    assert pair.secret.decode() not in repr(ClientKey(pair, pair.public, Path("x")))


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o610])
def test_a_secret_that_others_could_read_is_refused(keys: KeyFolder, bits: int) -> None:
    """As ssh does, and with the command that mends it."""
    file = keys.path / "server.key_secret"
    file.chmod(bits)
    with pytest.raises(KeysError, match=f"others may read it; run `chmod 600 {file}`"):
        read_server_key(keys.path)


def test_damaged_key_files_are_named(keys: KeyFolder, tmp_path: Path) -> None:
    """Wrong pair, no key, twice the same, a folder, a pipe, a megabyte, bytes that are no text: one line each."""
    file = tmp_path / "x.key_secret"
    mixed = KeyPair(new_pair().public, new_pair().secret)
    pair = new_pair()
    good = client_text(pair, pair.public, name="x", station="test")
    faulty = {
        "do not belong together": client_text(mixed, pair.public, name="x", station="test").encode(),
        "holds no public-key": good.replace("public-key", "other").encode(),
        "given twice": (good + good).encode(),
        "is no key,": good.replace(pair.public.decode(), "x" * 39).encode(),
        "server-key is no key,": good.replace(
            f'server-key = "{pair.public.decode()}"', f'server-key = "{"#" * 40}"'
        ).encode(),
        "does not say which daemon": good.replace("server-key", "other").encode(),
        "larger than": b"#" * (1 << 20),
        "is no key file": b"\xff" * 10,
    }
    for what, data in faulty.items():
        file.write_bytes(data)
        file.chmod(0o600)
        with pytest.raises(KeysError, match=what):
            read_client_key(file)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for odd in (tmp_path / "pipe", tmp_path):
        with pytest.raises(KeysError):
            read_client_key(odd)
    with pytest.raises(KeysError, match="no such key"):
        read_client_key(tmp_path / "none")


def test_a_damaged_client_lets_nobody_else_down(keys: KeyFolder) -> None:
    """The others of the allow-list stay; the damaged file is named."""
    keys.allowed("broken").write_text("nothing")
    allowed, faults = allowed_clients(keys.path)
    assert set(allowed.values()) == {"local"}
    assert len(faults) == 1
    assert "broken.key" in faults[0]


@pytest.mark.parametrize("name", ["../plc", "a/b", "..", "", ".hidden", "a" * 65, "UPPER", "a\n", "a\0b", "ä"])
def test_names_that_could_lead_elsewhere_are_refused(keys: KeyFolder, tmp_path: Path, name: str) -> None:
    """Nothing is made, and nothing is removed."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeysError, match="name"):
        keys.make_client(name, tmp_path / "out", force=True)
    with pytest.raises(KeysError, match="name"):
        keys.revoke(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_from_new_to_revoke(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """new, client, list, revoke; nothing is overwritten without --force; each refusal is 3 and one line."""
    monkeypatch.chdir(tmp_path)
    raw = {**settings(tmp_path), "security": {"curve": "required"}}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(raw))
    station_is = ["--station", "./test.yaml"]
    assert main(["keys", "client", "plc", *station_is]) == 3
    assert "make it with `inspectd keys new`" in capsys.readouterr().err
    assert main(["keys", "new", *station_is]) == 0
    assert main(["keys", "client", "plc", *station_is]) == 0
    before = read_client_key(tmp_path / "test-plc.key_secret")
    for again in (["new"], ["client", "plc"]):
        capsys.readouterr()
        assert main(["keys", *again, *station_is]) == 3
        said = capsys.readouterr().err
        assert "--force" in said
        assert said.count("\n") == 1
    assert read_client_key(tmp_path / "test-plc.key_secret") == before
    assert main(["keys", "list", *station_is]) == 0
    shown = capsys.readouterr().out
    assert before.pair.public.decode() in shown
    assert before.server.decode() in shown
    assert main(["keys", "revoke", "plc", *station_is]) == 0
    capsys.readouterr()
    assert main(["keys", "list", *station_is, "--json"]) == 0
    assert [client["name"] for client in json.loads(capsys.readouterr().out)["clients"]] == ["local"]
    assert main(["keys", "revoke", "plc", *station_is]) == 3
    assert main(["keys", "new", *station_is, "--force"]) == 0
    assert main(["keys", "client", "plc", *station_is, "--force"]) == 0
    assert read_client_key(tmp_path / "test-plc.key_secret").server != before.server


@pytest.mark.parametrize(
    ("endpoint", "inside"),
    [
        ("tcp://127.0.0.1:5560", True),
        ("tcp://127.8.9.1:5560", True),
        ("tcp://[::1]:5560", True),
        ("tcp://localhost:5560", True),
        ("ipc:///run/inspectd/results", True),
        ("tcp://*:5560", False),
        ("tcp://0.0.0.0:5560", False),
        ("tcp://[::]:5560", False),
        ("tcp://10.0.0.7:5560", False),
        ("tcp://eth0:5560", False),
        ("tcp://localhost.example:5560", False),
    ],
)
def test_plain_tcp_stays_inside_this_machine(tmp_path: Path, endpoint: str, inside: bool) -> None:
    """An endpoint that others could reach is refused without keys; with keys, or in so many words, it is taken."""
    assert on_loopback(endpoint) is inside
    changes = {"outputs": {"results": endpoint}}
    if inside:
        station(tmp_path, **changes)
    else:
        with pytest.raises(ValueError, match="can be reached from other machines"):
            station(tmp_path, **changes)
    for security in ({"curve": "required"}, {"plain_tcp": "anywhere"}):
        raw = {**settings(tmp_path, **changes), "security": security}
        assert type(station(tmp_path)).model_validate(raw).outputs.results == endpoint


def test_an_endpoint_with_two_addresses_is_none(tmp_path: Path) -> None:
    """libzmq would take the second one: it is outside, whatever the first one says, and no setting lets it in."""
    endpoint = "tcp://127.0.0.1:0;10.0.0.7:5560"
    assert not on_loopback(endpoint)
    with pytest.raises(ValueError, match="is no address"):
        station(tmp_path, outputs={"results": endpoint}, security={"plain_tcp": "anywhere"})


def test_an_endpoint_on_all_addresses_is_reached_through_the_loopback() -> None:
    """Our own commands connect where the daemon listens, also where that is everywhere."""
    assert reachable("tcp://*:5560") == reachable("tcp://0.0.0.0:5560") == "tcp://127.0.0.1:5560"
    assert reachable("tcp://[::]:5560") == "tcp://[::1]:5560"
    assert reachable("tcp://10.0.0.7:5560") == "tcp://10.0.0.7:5560"
    assert reachable("ipc://x") == "ipc://x"
