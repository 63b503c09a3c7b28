"""`inspectd challenge`: known-bad parts through the station's own stages, recorded, with an exit code to act on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import tiny_station as tiny

from inspectd.cameras.simulated import render_part
from inspectd.config import load_station
from inspectd.records.challenges import read_challenges
from inspectd.records.ledger import Ledger

NOT_PROVEN = 17


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
    strict = tiny_station.with_limits(0.0, tmp_path / "strict")
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
    strict = tiny_station.with_limits(0.0, tmp_path / "strict")
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
    strict = tiny_station.with_limits(0.0, tmp_path / "strict")
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


def test_a_challenge_beside_the_open_records_of_a_daemon(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """The daemon's hold on its records does not keep a challenge out, and the chain of both goes on."""
    strict = tiny_station.with_limits(0.0, tmp_path / "strict")
    path = tiny_station.settings(tmp_path)
    folder = load_station(str(path)).records.folder / tiny.NAME
    daemon = Ledger(folder)
    code, _, error = challenge(path, "--data", str(bad_parts(tmp_path / "bad")), "--bundle", str(strict.folder))
    daemon.close()
    assert code == 0, error
    assert len(read_challenges(folder)) == 1
