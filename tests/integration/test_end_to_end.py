"""The daemon as systemd runs it: its own process, a real bundle, the simulated camera, real sockets and signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq
from line_values import free_port
from tiny_station import NAME, TinyStation, environment, inspectd

from inspectd.messages import Reason
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart

PARTS = 60
PATIENCE_S = 60.0
JUDGED = {Reason.WITHIN_LIMITS, Reason.OVER_THRESHOLD}
Context = zmq.Context[zmq.Socket[bytes]]


@contextmanager
def daemon(settings: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`inspectd run` in the settings' folder, its log in run.log; killed where the test leaves it running."""
    command = [sys.executable, "-m", "inspectd", "run", "--station", str(settings), *arguments]
    with (settings.parent / "run.log").open("ab") as log_file:
        process = subprocess.Popen(command, cwd=settings.parent, env=environment(), stderr=log_file)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def listening(context: Context, settings: Path) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber to everything that the daemon says."""
    with closing(context.socket(zmq.SUB)) as subscriber:
        subscriber.linger = 0
        subscriber.rcvhwm = 100_000
        subscriber.subscribe(b"")
        subscriber.connect(raw(settings)["outputs"]["results"])
        yield subscriber


def raw(settings: Path) -> Any:
    """The settings file's content."""
    return yaml.safe_load(settings.read_text())


def hear(subscriber: zmq.Socket[bytes], topic: str) -> dict[str, Any]:
    """The next message on a topic of the station."""
    give_up_s = time.monotonic() + PATIENCE_S
    while subscriber.poll(max(0, round((give_up_s - time.monotonic()) * 1000))):
        said, message = subscriber.recv_multipart()
        if said == f"{topic}.{NAME}".encode():
            return dict(json.loads(message))
    raise AssertionError(f"nothing on {topic} for {PATIENCE_S:g} s")


def results_until_stopped(subscriber: zmq.Socket[bytes]) -> list[dict[str, Any]]:
    """All results up to the daemon's last word."""
    results = []
    while subscriber.poll(round(PATIENCE_S * 1000)):
        said, message = subscriber.recv_multipart()
        content = json.loads(message)
        if said.startswith(b"result."):
            results.append(content)
        elif said.startswith(b"health.") and content["state"] == "stopped":
            return results
    raise AssertionError("the daemon did not say goodbye")


def stored(settings: Path) -> list[StoredPart]:
    """All records of the station."""
    with RecordReader(settings.parent / "records" / NAME) as reader:
        return list(reader.all())


def test_each_trigger_is_one_verdict_and_one_record(
    tiny_station: TinyStation, tmp_path: Path, context: Context
) -> None:
    """N triggers by message are N results in order and N rows that say the same; no torch is in the process."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    settings = tiny_station.settings(tmp_path, trigger={"source": "zmq", "endpoint": endpoint})
    names = [f"part-{number}" for number in range(PARTS)]
    with listening(context, settings) as subscriber, daemon(settings) as process:
        hear(subscriber, "health")
        with closing(context.socket(zmq.PUSH)) as triggers:
            triggers.linger = 1000
            triggers.connect(endpoint)
            results = []
            for name in names:
                triggers.send(json.dumps({"part_id": name}).encode())
                results.append(hear(subscriber, "result"))
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        assert results_until_stopped(subscriber) == []
        assert process.wait(PATIENCE_S) == 0
    assert [result["part_id"] for result in results] == names
    assert [result["seq"] for result in results] == list(range(1, PARTS + 1))
    assert {result["verdict"] for result in results} <= {"PASS", "REJECT"}
    rows = [part.verdict for part in stored(settings)]
    said = [(result["seq"], result["part_id"], result["verdict"], result["part_score"]) for result in results]
    assert [(row.seq, row.part_id, row.outcome.value, row.part_score) for row in rows] == said
    assert {row.bundle_hash for row in rows} == {tiny_station.bundle.hash}


def test_sigterm_in_the_middle_loses_nothing_and_numbers_go_on(
    tiny_station: TinyStation, tmp_path: Path, context: Context
) -> None:
    """SIGTERM while parts come drains what is under way and ends with 0; the next start goes on counting."""
    settings = tiny_station.settings(tmp_path, trigger={"period_ms": 5})
    with listening(context, settings) as subscriber:
        with daemon(settings) as process:
            heard = [hear(subscriber, "result")["seq"] for _ in range(20)]
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        heard += [result["seq"] for result in results_until_stopped(subscriber)]
        rows = stored(settings)
        assert [row.verdict.seq for row in rows] == list(range(1, len(rows) + 1))
        assert len(heard) == len(set(heard))
        decided_ns = {row.verdict.seq: row.verdict.verdict_ns for row in rows}
        assert {seq for seq in decided_ns if decided_ns[seq] > decided_ns[heard[0]]} <= set(heard)
        assert {row.verdict.reason for row in rows} <= {*JUDGED, Reason.OVERLOAD}  # a slow machine's queue may be full
        with daemon(settings, "--max-parts", "5") as process:
            assert process.wait(PATIENCE_S) == 0
    again = stored(settings)
    assert [row.verdict.seq for row in again] == list(range(1, len(rows) + 6))


def test_a_changed_bundle_is_refused(tiny_station: TinyStation, tmp_path: Path) -> None:
    """One flipped bit in the engine's weights: exit code 4, the file named, nothing recorded."""
    bundle = tiny_station.variant(tmp_path / "bundles")
    weights = bundle.folder / "engine.bin"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    settings = tiny_station.settings(tmp_path)
    done = inspectd("run", "--station", str(settings), "--bundle", str(bundle.folder), folder=tmp_path)
    assert done.returncode == 4
    assert "engine.bin: was changed" in done.stderr
    assert not (tmp_path / "records").exists()


def test_an_engine_that_answers_otherwise_is_refused(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Golden images that are not reproduced within their tolerance: exit code 9 before the first part."""
    golden = tiny_station.bundle.manifest.golden
    moved = golden[0].model_copy(update={"part_score": golden[0].part_score * 2 + 1e6})
    bundle = tiny_station.variant(tmp_path / "bundles", golden=(moved, *golden[1:]))
    settings = tiny_station.settings(tmp_path)
    done = inspectd("run", "--station", str(settings), "--bundle", str(bundle.folder), folder=tmp_path)
    assert done.returncode == 9
    assert "golden image" in done.stderr
    assert not (tmp_path / "records").exists()


def test_a_bundle_for_other_settings_is_refused(tiny_station: TinyStation, tmp_path: Path) -> None:
    """A region that moved since calibration: exit code 4, and which setting differs."""
    settings = tiny_station.settings(tmp_path)
    changed = raw(settings)
    changed["regions"][1]["width_px"] -= 10
    settings.write_text(yaml.safe_dump(changed))
    done = inspectd("run", "--station", str(settings), folder=tmp_path)
    assert done.returncode == 4
    assert "regions.1.width_px: bundle has 60, station has 50" in done.stderr


def test_a_port_in_use_ends_with_its_code(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Another process has the port: exit code 7, one line that names it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = tiny_station.settings(tmp_path, outputs={"results": f"tcp://127.0.0.1:{port}"})
        done = inspectd("run", "--station", str(settings), folder=tmp_path)
    assert done.returncode == 7
    assert str(port) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("line", {"deadline": 50}, "line.deadline: unknown setting"),
        ("line", {"deadline_ms": "soon"}, "line.deadline_ms"),
        ("camera", {"kind": "telescope"}, "camera"),
    ],
)
def test_bad_settings_end_with_their_code(
    tiny_station: TinyStation, tmp_path: Path, section: str, values: dict[str, Any], says: str
) -> None:
    """Unknown, ill-typed or impossible settings: exit code 3 and one line that names the setting."""
    settings = tiny_station.settings(tmp_path, **{section: values})
    done = inspectd("run", "--station", str(settings), folder=tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
