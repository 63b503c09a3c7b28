"""A small recorded set through the replay tool: the line's own records are the reference, the tolerances stand below.

Images, records and bundle are made by the daemon itself at test time, so nothing is stored that could grow old.
"""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_station import NAME, ROOT, TinyStation, inspectd, run_program, tool

from inspectd.records.reading import RecordReader

PARTS = 24
SCORE_TOLERANCE = 0.0
"""Of a score between the line and its replay, as a share of the score or its limit: on one machine they are equal."""


@dataclass(frozen=True)
class Recorded:
    """What the daemon left: a folder with settings and records of PARTS parts, each with its image."""

    folder: Path
    settings: Path

    @property
    def records(self) -> Path:
        """The station's records folder."""
        return self.folder / "records" / NAME

    def replay(self, *arguments: str, footage: Path | None = None) -> Any:
        """Run the tool on this footage, or on another."""
        where = str(footage or self.records)
        return tool("replay", where, "--station", str(self.settings), *arguments, folder=self.folder)


@pytest.fixture(scope="module")
def recorded(tiny_station: TinyStation, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A daemon that keeps every image has seen good and defective parts."""
    folder = tmp_path_factory.mktemp("recorded")
    settings = tiny_station.settings(
        folder,
        camera={"kind": "simulated", "seed": 3, "pool": PARTS, "defect_share": 0.4},
        trigger={"period_ms": 100},  # no image is dropped because a disk is slow for a moment
        records={"folder": str(folder / "records"), "passed_image_every": 1},
    )
    done = inspectd("run", "--station", str(settings), "--max-parts", str(PARTS), folder=folder)
    assert done.returncode == 0, done.stderr
    return Recorded(folder, settings)


@pytest.fixture(scope="module")
def stricter(recorded: Recorded, tiny_station: TinyStation) -> Path:
    """A bundle with the same engine, whose limits lie so low that some parts no longer pass."""
    with RecordReader(recorded.records) as reader:
        scores = sorted(part.verdict.part_score or 0.0 for part in reader.all())
    factor = scores[len(scores) // 2] / tiny_station.bundle.thresholds.part.value
    return tiny_station.with_limits(factor, recorded.folder / "stricter").folder


def test_the_line_says_again_what_it_said(recorded: Recorded) -> None:
    """Every recorded part is found in the records, with the same verdict and a score within the declared tolerance."""
    done = recorded.replay("--against", str(recorded.records / "records.db"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    against = document["against"]
    assert (against["compared"], against["unmatched"], against["changed"]) == (PARTS, 0, [])
    assert against["largest_shift"] <= SCORE_TOLERANCE
    with RecordReader(recorded.records) as reader:
        said = {part.verdict.part_id: part.verdict for part in reader.all()}
    for part in document["runs"][0]["parts"]:
        verdict = said[part["part_id"]]
        assert (part["verdict"], part["reason"]) == (verdict.outcome.value, verdict.reason.value)
        assert part["region_scores"] == pytest.approx(dict(verdict.region_scores), rel=SCORE_TOLERANCE, abs=0)


def test_two_processes_give_identical_scores(recorded: Recorded) -> None:
    """The same footage and bundle give the same document, bit by bit."""
    first, second = (recorded.replay("--json") for _ in range(2))
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert len({part["part_score"] for part in json.loads(first.stdout)["runs"][0]["parts"]}) > PARTS // 2


def test_other_limits_change_verdicts_and_the_exit_code(recorded: Recorded, stricter: Path) -> None:
    """With a stricter bundle the parts that now fail are listed with both verdicts and scores, and the code is 11."""
    arguments = ("--bundle", str(stricter), "--against", str(recorded.records))
    document = json.loads(recorded.replay(*arguments, "--json").stdout)
    changed = document["against"]["changed"]
    assert 0 < len(changed) < PARTS
    assert {(change["old"]["verdict"], change["new"]["verdict"]) for change in changed} == {("PASS", "REJECT")}
    assert all(change["old"]["part_score"] == change["new"]["part_score"] for change in changed)
    done = recorded.replay(*arguments)
    assert done.returncode == 11
    assert f"{len(changed)} verdicts changed" in done.stdout
    assert all(change["part_id"] in done.stdout for change in changed)


def test_two_bundles_are_compared_on_the_footage(recorded: Recorded, stricter: Path, tiny_station: TinyStation) -> None:
    """`--bundle A --bundle B`: equal engines rank all parts alike, other limits change verdicts."""
    done = recorded.replay("--bundle", str(tiny_station.bundles), "--bundle", str(stricter), "--json")
    assert done.returncode == 11, done.stderr
    document = json.loads(done.stdout)
    old, new = document["runs"]
    assert old["bundle"] != new["bundle"]
    assert document["between"]["rank_correlation"] == 1.0
    assert document["between"]["largest_shift"] == 0.0
    changes = sum(a["verdict"] != b["verdict"] for a, b in zip(old["parts"], new["parts"], strict=True))
    assert len(document["between"]["changed"]) == changes > 0


def test_a_folder_gives_the_scores_of_the_records_that_its_images_come_from(recorded: Recorded, tmp_path: Path) -> None:
    """Footage is footage: plain image files in name order are judged like the records, and a CSV row says so."""
    images = sorted(recorded.records.rglob("*.png"))
    for image in images:
        shutil.copyfile(image, tmp_path / image.name)
    done = recorded.replay("--csv", str(tmp_path / "rows.csv"), footage=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{PARTS} parts" in done.stdout
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with RecordReader(recorded.records) as reader:
        assert [float(row["part_score"]) for row in rows] == [part.verdict.part_score for part in reader.all()]
    assert all(row["score body"] for row in rows)


def test_a_video_is_footage(recorded: Recorded, tmp_path: Path) -> None:
    """Each frame of a video file is one part."""
    images = [cv2.imread(str(path)) for path in sorted(recorded.records.rglob("*.png"))[:3]]
    with_size = (images[0].shape[1], images[0].shape[0])
    writer = cv2.VideoWriter(str(tmp_path / "parts.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, with_size)
    for image in images:
        writer.write(image)
    writer.release()
    done = recorded.replay("--json", footage=tmp_path / "parts.avi")
    parts = json.loads(done.stdout)["runs"][0]["parts"]
    assert [part["part_id"] for part in parts] == ["parts#0", "parts#1", "parts#2"]
    assert all(part["part_score"] > 0 for part in parts)


def test_what_record_saved_and_labelled_sets_are_footage(recorded: Recorded, tmp_path: Path) -> None:
    """Parts keep the names of their metadata; in MVTec layout they have labels, and masks are no parts."""
    saved = tmp_path / "saved"
    done = inspectd(
        "record", "--station", str(recorded.settings), "--count", "3", "--out", str(saved), folder=recorded.folder
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(recorded.replay("--json", footage=saved).stdout)["runs"][0]["parts"]
    assert [part["part_id"] for part in parts] == [f"{NAME}-{number:06d}" for number in (1, 2, 3)]
    labelled = tmp_path / "set"
    for place in ("test/good", "test/scratch", "ground_truth/scratch"):
        (labelled / place).mkdir(parents=True)
        shutil.copyfile(saved / "000001.png", labelled / place / "0001.png")
    parts = json.loads(recorded.replay("--json", footage=labelled).stdout)["runs"][0]["parts"]
    assert [part["label"] for part in parts] == ["good", "scratch"]


def test_a_bad_image_is_invalid_and_the_replay_goes_on(recorded: Recorded, tmp_path: Path) -> None:
    """A file that is no image, and a frame without a part, are INVALID with their reasons; the others are judged."""
    (tmp_path / "1.png").write_bytes(b"no image")
    dark = np.random.default_rng(0).integers(5, 15, (200, 240, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "2.png"), dark)
    shutil.copyfile(next(iter(recorded.records.rglob("*.png"))), tmp_path / "3.png")
    done = recorded.replay("--json", footage=tmp_path)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["runs"][0]
    assert [part["reason"] for part in run["parts"]][:2] == ["bad_image", "no_part"]
    assert run["verdicts"]["INVALID"] == 2
    assert Counter(part["part_score"] is None for part in run["parts"]) == {True: 2, False: 1}


def test_it_runs_without_torch(recorded: Recorded) -> None:
    """A replay needs what the daemon needs, and no more."""
    program = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv[1:] = [{str(recorded.records)!r}, '--station', {str(recorded.settings)!r}, '--max-parts', '2']\n"
        f"runpy.run_path({str(ROOT / 'tools' / 'replay.py')!r}, run_name='__main__')"
    )
    done = run_program(program, folder=recorded.folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("footage", "arguments", "code", "says"),
    [
        ("nowhere", (), 6, "no such footage"),
        ("empty", (), 6, "holds no image"),
        ("records", ("--bundle", "empty"), 4, "holds no bundle"),
        ("records", ("--against", "empty"), 8, "no records here"),
        ("records", ("--csv", "nowhere/rows.csv"), 8, "cannot be written"),
        ("records", ("--bundle", "a", "--bundle", "b", "--against", "empty"), 2, "give one --bundle"),
        ("records", ("--max-parts", "0"), 2, "must be at least 1"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_documented_code(
    recorded: Recorded, footage: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Footage, bundle, records, output file and arguments: never a traceback."""
    (recorded.folder / "empty").mkdir(exist_ok=True)
    done = recorded.replay(*arguments, footage=recorded.records if footage == "records" else Path(footage))
    assert done.returncode == code, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_records_without_images_say_what_to_do(recorded: Recorded, tmp_path: Path) -> None:
    """Records whose images are gone are not silently an empty replay."""
    shutil.copytree(recorded.records, tmp_path / "records")
    with closing(sqlite3.connect(tmp_path / "records" / "records.db")) as database:
        database.execute("DELETE FROM images")
        database.commit()
    done = recorded.replay(footage=tmp_path / "records")
    assert done.returncode == 6
    assert "passed_image_every" in done.stderr
