"""`inspectd challenge`: known-bad parts through the station's own stages, recorded, with an exit code to act on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_station as tiny
import yaml
import zmq
from line_values import free_port, settings

from inspectd.cameras.simulated import render_part
from inspectd.config import Station, load_station
from inspectd.errors import NoAnswer
from inspectd.records.challenges import read_challenges, to_note
from inspectd.records.ledger import Ledger
from inspectd.records.reading import RecordReader
from inspectd.wire.client import ask

NOT_PROVEN = 17
PATIENCE_MS = 30_000
DAEMON = Path(__file__).resolve().parent / "daemon_with_fake_runtime.py"


def bad_parts(folder: Path, count: int = 3) -> Path:
    """Images of parts, in a folder of bad ones."""
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"bad-{index}.png"), render_part(3, index).image[..., ::-1])
    return folder


def challenge(path: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and error of the command."""
    done = tiny.inspectd("challenge", "--station", str(path), *arguments, folder=path.parent)
    return done.returncode, done.stdout, done.stderr


def test_rejected_parts_prove_the_station(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """Every part rejected: code 0, a table, and an entry of the records that says who, when, what and which bundle."""
    strict = tiny_station.with_limits(-1000.0, tmp_path / "strict")  # below whatever a part scores
    path = tiny_station.settings(tmp_path)
    data = bad_parts(tmp_path / "bad")
    code, output, error = challenge(path, "--data", str(data), "--bundle", str(strict.folder), "--by", "M. Curie")
    assert code == 0, error
    assert "challenge passed: 3 of 3 known-bad parts rejected" in output
    (stored,) = read_challenges(load_station(str(path)).records.folder / tiny.NAME)
    assert (stored.way, stored.by, stored.source) == ("images", "M. Curie", str(data))
    assert stored.bundle_hash == strict.hash
    assert stored.passed
    assert [part.name for part in stored.parts] == ["bad-0", "bad-1", "bad-2"]
    assert stored.begun_wall_ns <= stored.ended_wall_ns
    code, output, _ = challenge(path, "--list", "--json")
    (listed,) = json.loads(output)
    assert (code, listed["passed"], listed["by"], len(listed["parts"])) == (0, True, "M. Curie", 3)
    assert "M. Curie" in challenge(path, "--list")[1]


def test_an_escape_is_recorded_and_ends_with_its_own_code(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """A known-bad part that passes is the one thing that must not go unnoticed: code 17, named, and in the records."""
    lax = tiny_station.with_limits(1e6, tmp_path / "lax")
    path = tiny_station.settings(tmp_path)
    code, output, error = challenge(
        path, "--data", str(bad_parts(tmp_path / "bad")), "--bundle", str(lax.folder), "--json"
    )
    assert code == NOT_PROVEN
    assert "3 of 3 known-bad parts were not rejected, such as bad-0 (PASS)" in error
    assert json.loads(output)["passed"] is False
    (stored,) = read_challenges(load_station(str(path)).records.folder / tiny.NAME)
    assert not stored.passed
    assert [part.outcome for part in stored.parts] == ["PASS"] * 3


def test_a_part_that_could_not_be_judged_proves_nothing(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """INVALID is not a rejection: an empty frame and a broken file leave the challenge unproven."""
    strict = tiny_station.with_limits(-1000.0, tmp_path / "strict")  # below whatever a part scores
    path = tiny_station.settings(tmp_path)
    data = bad_parts(tmp_path / "bad", 1)
    cv2.imwrite(str(data / "dark.png"), np.random.default_rng(0).integers(0, 4, (200, 200, 3), np.uint8))
    (data / "torn.png").write_bytes(b"\x89PNG torn")
    code, output, _ = challenge(path, "--data", str(data), "--bundle", str(strict.folder), "--json")
    assert code == NOT_PROVEN
    found = {part["name"]: part["outcome"] for part in json.loads(output)["parts"]}
    assert found == {"bad-0": "REJECT", "dark": "INVALID", "torn": "INVALID"}


def test_of_a_labelled_set_only_the_bad_parts_are_shown(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """MVTec layout: test/<defect> is the challenge, good parts are left out; a set of good parts is refused."""
    strict = tiny_station.with_limits(-1000.0, tmp_path / "strict")
    path = tiny_station.settings(tmp_path)
    bad_parts(tmp_path / "set" / "test" / "scratch", 2)
    bad_parts(tmp_path / "set" / "test" / "good", 2)
    bad_parts(tmp_path / "set" / "train" / "good", 2)
    use = ("--bundle", str(strict.folder))
    code, output, error = challenge(path, "--data", str(tmp_path / "set"), *use, "--json")
    assert code == 0, error
    assert [part["label"] for part in json.loads(output)["parts"]] == ["scratch"] * 2
    bad_parts(tmp_path / "good" / "test" / "good", 2)
    code, _, error = challenge(path, "--data", str(tmp_path / "good"), *use)
    assert code == 6
    assert "no part in it is known to be bad" in error
    assert len(read_challenges(load_station(str(path)).records.folder / tiny.NAME)) == 1


@pytest.mark.parametrize(("score", "outcome"), [("0.9", "REJECT"), ("0.1", "PASS")])
def test_parts_on_the_running_line(tmp_path: Path, score: str, outcome: str) -> None:
    """The daemon marks the next parts in results and records, records what became of them, and goes on as before."""
    path = tmp_path / "test.yaml"
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    raw = settings(tmp_path, trigger={"source": "zmq", "endpoint": endpoint}, challenge={"every_hours": 24})
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    station = load_station(str(path))
    arguments = ("challenge", "--station", str(path), "--parts", "2", "--names", "crack,dent", "--by", "M. Curie")
    with line(path, score) as trigger:
        trigger("before")
        command = [sys.executable, "-m", "inspectd", *arguments, "--json", "--timeout", "60"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as asking:
            assert asking.stderr is not None
            assert "put the 2 known-bad parts on the line now" in asking.stderr.readline()
            refused = tiny.inspectd(*arguments, folder=tmp_path)
            assert refused.returncode == 10
            assert "a challenge by M. Curie goes on" in refused.stderr
            for name in ("first", "second", "after"):
                trigger(name)
            output, error = asking.communicate(timeout=60)
    assert asking.returncode == (0 if outcome == "REJECT" else NOT_PROVEN), error
    told = json.loads(output)
    assert [(part["name"], part["outcome"]) for part in told["parts"]] == [("crack", outcome), ("dent", outcome)]
    folder = station.records.folder / station.station
    (stored,) = read_challenges(folder)
    assert (stored.way, stored.by, stored.passed) == ("line", "M. Curie", outcome == "REJECT")
    assert [part.seq for part in stored.parts] == [part["seq"] for part in told["parts"]]
    with closing(Ledger(folder)) as ledger:  # as a challenge with images does after the daemon's clean stop
        ledger.write([to_note(stored)])
    proof = tiny.inspectd("records", "verify", "--station", str(path), "--json", folder=tmp_path)
    assert proof.returncode == 0, proof.stdout
    assert json.loads(proof.stdout)["stopped"] is True
    with RecordReader(folder) as reader:
        marked = [(part.verdict.part_id, part.verdict.challenge, part.image is not None) for part in reader.all()]
    assert marked == [
        ("before", "", outcome == "REJECT" or marked[0][2]),
        ("first", "crack", True),
        ("second", "dent", True),
        ("after", "", marked[3][2]),
    ]


def test_parts_that_never_come_prove_nothing(tmp_path: Path) -> None:
    """The command gives up after its time with code 17; the daemon records the challenge when it stops."""
    path = tmp_path / "test.yaml"
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    path.write_text(yaml.safe_dump(settings(tmp_path, trigger={"source": "zmq", "endpoint": endpoint})))
    with line(path, "0.9"):
        code, output, error = challenge(path, "--parts", "1", "--timeout", "1", "--json")
    assert code == NOT_PROVEN
    assert "such as 1 (never_came)" in error
    assert json.loads(output)["passed"] is False
    (stored,) = read_challenges(load_station(str(path)).records.folder / "test")
    assert [(part.name, part.outcome) for part in stored.parts] == [("1", "never_came")]


@contextmanager
def line(path: Path, score: str) -> Iterator[Callable[[str], None]]:
    """A daemon that gives every part this score; yields what sends a trigger and waits for its result."""
    station = load_station(str(path))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    results, triggers = context.socket(zmq.SUB), context.socket(zmq.PUSH)
    health = b"health." + station.station.encode()
    results.subscribe(health)
    results.subscribe(b"result." + station.station.encode())
    results.connect(station.outputs.results)
    triggers.connect(str(station.trigger.endpoint))
    process = subprocess.Popen(
        [sys.executable, str(DAEMON), str(path), score, "0", "0"], stderr=subprocess.DEVNULL, env=tiny.environment()
    )

    def trigger(part_id: str) -> None:
        triggers.send_json({"part_id": part_id})
        while True:
            assert results.poll(PATIENCE_MS), "no result"
            topic, body = results.recv_multipart()
            if topic != health:  # one may still be on its way
                break
        assert json.loads(body)["part_id"] == part_id

    try:
        assert wait_until_ready(station)
        assert results.poll(PATIENCE_MS), "the subscription did not arrive"
        results.unsubscribe(health)
        yield trigger
    finally:
        process.terminate()
        assert process.wait(60) == 0
        for socket in (results, triggers):
            socket.close(linger=0)
        context.term()


def wait_until_ready(station: Station) -> bool:
    """Whether the daemon answers questions within half a minute."""
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            return bool(ask(station.outputs.queries, {"ask": "status"}, 1.0))
        except NoAnswer:
            continue
    return False


def test_a_challenge_beside_the_open_records_of_a_daemon(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """The daemon's hold on its records does not keep a challenge out, and the chain of both goes on."""
    strict = tiny_station.with_limits(-1000.0, tmp_path / "strict")
    path = tiny_station.settings(tmp_path)
    folder = load_station(str(path)).records.folder / tiny.NAME
    daemon = Ledger(folder)
    code, _, error = challenge(path, "--data", str(bad_parts(tmp_path / "bad")), "--bundle", str(strict.folder))
    daemon.close()
    assert code == 0, error
    assert len(read_challenges(folder)) == 1
