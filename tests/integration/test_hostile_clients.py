"""Hostile messages on every socket of the daemon's process: refused, counted, and no verdict is missing for them."""

from __future__ import annotations

import json
import socket as sockets
import struct
from pathlib import Path
from typing import Any

import psutil
import yaml
import zmq
from line_values import free_port, settings
from test_daemon import PATIENCE_S, Daemon, daemon

from inspectd.wire.client import ask
from inspectd.wire.key_files import KeyFolder
from inspectd.wire.keys import read_client_key

Context = zmq.Context[zmq.Socket[bytes]]
GROWTH_BYTES = 100 << 20
SUBSCRIPTIONS = 5_000
OUT_OF_ORDER = 20
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31)


def status(running: Daemon) -> dict[str, Any]:
    """The health message, on request."""
    found: dict[str, Any] = ask(running.station.outputs.queries, {"ask": "status"}, PATIENCE_S)[0]["status"]
    return found


def counts(running: Daemon) -> dict[str, int]:
    """What the daemon has counted."""
    found: dict[str, int] = status(running)["counts"]
    return found


def speak(endpoint: str, kind: bytes) -> sockets.socket:
    """A TCP connection that has shaken hands as a ZeroMQ peer of this kind, and may now send any bytes."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    made = sockets.create_connection((host, int(port)), PATIENCE_S)
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    made.sendall(GREETING + b"\x04" + bytes([len(body)]) + body)
    return made


def closed(connection: sockets.socket) -> bool:
    """Whether the daemon ends the connection; reads until then."""
    connection.settimeout(PATIENCE_S)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    return True


def test_hostile_triggers_are_refused_and_the_next_good_one_counts(tmp_path: Path, context: Context) -> None:
    """A hundred thousand frames, no JSON, deep JSON: refused; odd fields are left out, their part is judged."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    hostile: list[list[bytes]] = [
        [b"x"] * 100_000,
        [b"{}", b"{}"],
        [b"\xff\xfe"],
        [b"[" * 8000],
        [b""],
    ]
    odd = [
        b'{"part_id": NaN}',
        b'{"part_id": 7}',
        b'{"part_id": "a\\u0007"}',
        b'{"part_id": "' + b"a" * 129 + b'"}',
        b'{"encoder": 1e400}',
    ]
    with daemon(tmp_path, trigger={"source": "zmq", "endpoint": endpoint}) as running:
        with context.socket(zmq.PUSH) as source:
            source.connect(endpoint)
            for frames in hostile:
                source.send_multipart(frames)
            for number, message in enumerate([*odd, b'{"part_id": "good"}'], start=1):
                source.send(message)
                while sum((now := status(running))["verdicts"].values()) < number:
                    pass
        assert now["counts"]["triggers_refused"] == len(hostile)
        assert now["counts"]["triggers_put_right"] == len(odd)
        assert (now["counts"]["triggers"], now["verdicts"]["PASS"]) == (len(odd) + 1, len(odd) + 1)
        code, log = running.end()
    assert code == 0
    assert not [line for line in log if line["event"] == "stage failed"]


def test_oversize_messages_end_their_connection_alone(tmp_path: Path, context: Context) -> None:
    """A frame that is larger than any of ours closes the sender's connection; the others and the line go on."""
    trigger = f"tcp://127.0.0.1:{free_port()}"
    with daemon(tmp_path, trigger={"source": "zmq", "endpoint": trigger}) as running:
        outputs = running.station.outputs
        for endpoint, kind in ((trigger, b"PUSH"), (outputs.queries, b"DEALER"), (outputs.results, b"SUB")):
            with speak(endpoint, kind) as connection:
                connection.sendall(b"\x02" + struct.pack(">Q", 1 << 40) + bytes(1000))
                assert closed(connection)
        with context.socket(zmq.PUSH) as source:
            source.connect(trigger)
            source.send(b"{}")
            while status(running)["last_seq"] is None:
                pass
        code, _ = running.end()
    assert code == 0


def test_what_is_no_zeromq_is_turned_away(tmp_path: Path) -> None:
    """With keys asked for: a browser, random bytes, a plain peer and silence on each port: the connection ends."""
    keys = KeyFolder(tmp_path / "keys" / "test", "test")
    keys.make_server(force=False)
    raw = {
        **settings(tmp_path, trigger={"period_ms": 50}),
        "security": {"curve": "required", "keys": str(tmp_path / "keys")},
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(raw))
    with daemon(tmp_path) as running:
        outputs = running.station.outputs
        strangers = (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)), b"\xff" * 64, GREETING, GREETING[:20])
        for endpoint in (outputs.results, outputs.queries):
            for data in strangers:
                host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
                with sockets.create_connection((host, int(port)), PATIENCE_S) as connection:
                    connection.sendall(data)
                    assert closed(connection)
        key = read_client_key(keys.path / "local.key_secret")
        now = ask(outputs.queries, {"ask": "status"}, PATIENCE_S, key)[0]["status"]
        assert now["counts"]["clients_refused"] >= 2  # the plain peer on either port; the others spoke no ZeroMQ


def test_hostile_questions_are_answered_or_dropped(tmp_path: Path, context: Context) -> None:
    """Nonsense gets an error in words, an envelope of a thousand frames nothing; a good question is answered after."""
    with daemon(tmp_path) as running, context.socket(zmq.DEALER) as asker:
        asker.connect(running.station.outputs.queries)
        refused = [b"", b"\xff", b"[" * 4000, b'{"ask": "map", "seq": NaN}', b'{"ask": "map", "seq": -1}', b"x" * 5000]
        for data in refused:
            asker.send_multipart([b"", data])
        asker.send_multipart([b"x"] * 1000)
        asker.send_multipart([b"", b'{"ask": "status"}'])
        for _ in refused:
            assert asker.poll(int(PATIENCE_S * 1000))
            assert json.loads(asker.recv_multipart()[-1])["answer"] == "error"
        assert asker.poll(int(PATIENCE_S * 1000))
        assert json.loads(asker.recv_multipart()[-1])["answer"] == "status"
        assert counts(running)["queries_refused"] == len(refused) + 1


def test_many_subscriptions_stop_no_verdict(tmp_path: Path, context: Context) -> None:
    """Five thousand subscriptions, half of them cancelled, then gone: results keep coming, memory stays bounded."""
    with (
        daemon(tmp_path, trigger={"period_ms": 20}) as running,
        context.socket(zmq.XSUB) as hostile,
        context.socket(zmq.SUB) as ours,
    ):
        memory = psutil.Process(running.process.pid).memory_info
        hostile.linger = 0
        hostile.sndhwm = 0
        hostile.connect(running.station.outputs.results)
        ours.subscribe(b"result.test")
        ours.connect(running.station.outputs.results)
        assert ours.poll(int(PATIENCE_S * 1000))
        before, results = memory().rss, []
        for number in range(SUBSCRIPTIONS):
            hostile.send(b"\x01" + f"{number:06d}".encode() * 10)
        for number in range(0, SUBSCRIPTIONS, 2):
            hostile.send(b"\x00" + f"{number:06d}".encode() * 10)
        hostile.send(b"\x01result.test")
        while not hostile.poll(0):  # the daemon has taken in all of them
            assert ours.poll(int(PATIENCE_S * 1000))
            results.append(json.loads(ours.recv_multipart()[1]))
        assert memory().rss - before < GROWTH_BYTES
        hostile.close(linger=0)
        for _ in range(100):
            assert ours.poll(int(PATIENCE_S * 1000))
            results.append(json.loads(ours.recv_multipart()[1]))
    seqs = [result["seq"] for result in results]
    assert "late" not in {result["reason"] for result in results}
    assert set(range(min(seqs), max(seqs) - OUT_OF_ORDER)) <= set(seqs)
