"""The commands bundles, rollback and evaluate, through the command line as a user calls it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bundle_making import CANVAS, MeanRuntime, make_bundle
from PIL import Image

from calibration.images import load_image
from engines.artifact import Bundle, activate, active_bundle, fingerprint, image_hash
from engines.settings import EngineSettings
from inspectd.__main__ import main
from inspectd.commands import evaluate

STATION = """\
station: line1
camera: {{kind: folder, path: footage}}
locate: {{mode: "off"}}
canvas: {{height_px: 64, width_px: 96}}
regions:
  - {{name: left, top_px: 8, left_px: 8, height_px: 48, width_px: 40, patches: [[2, 2]]}}
  - {{name: right, top_px: 8, left_px: 48, height_px: 48, width_px: 40, patches: [[2, 2]]}}
bundles: {bundles}
"""


@pytest.fixture
def station(tmp_path: Path) -> str:
    """The settings file of a station whose bundles lie in tmp_path/bundles."""
    path = tmp_path / "line1.yaml"
    path.write_text(STATION.format(bundles=tmp_path / "bundles"))
    return str(path)


def test_bundles_lists_and_marks(tmp_path: Path, station: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bundles are listed oldest first with what they promise; the active one is marked."""
    made = [make_bundle(tmp_path / "bundles", seed=seed) for seed in range(2)]
    activate(tmp_path / "bundles", "line1", made[1].hash)
    assert main(["bundles", "--station", station, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["bundle"], row["active"]) for row in rows] == [(made[0].short_hash, False), (made[1].short_hash, True)]
    assert rows[0]["asked_rate"] == 0.01
    assert main(["bundles", "--station", station]) == 0
    shown = capsys.readouterr().out
    assert all(bundle.short_hash in shown for bundle in made)


def test_bundles_of_a_new_station(station: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A station that was never calibrated has no bundles, which is no error."""
    assert main(["bundles", "--station", station]) == 0
    assert "no bundles yet" in capsys.readouterr().out


def test_rollback_goes_back(tmp_path: Path, station: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`rollback` says from where to where; without an earlier bundle it ends with exit code 4 and one line."""
    made = [make_bundle(tmp_path / "bundles", seed=seed) for seed in range(2)]
    for bundle in made:
        activate(tmp_path / "bundles", "line1", bundle.hash)
    assert main(["rollback", "--station", station]) == 0
    assert f"{made[1].short_hash} -> {made[0].short_hash}" in capsys.readouterr().out
    assert main(["rollback", "--station", station]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["rollback", "--station", station, "--to", made[1].short_hash]) == 0
    assert active_bundle(tmp_path / "bundles", "line1") == made[1].folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good parts and two with a bright half."""
    for index in range(2):
        for kind, level in (("good", 40), ("blot", 160)):
            pixels = np.random.default_rng(index).integers(30, 50, (CANVAS.height_px, CANVAS.width_px, 3), np.uint8)
            pixels[:, 48:] += np.uint8(level - 40)
            path = tmp_path / f"set/test/{kind}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "set/train/good").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "set/train/good/0.png")
    return tmp_path / "set"


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[MeanRuntime]:
    """Stands in for the compiled engine, which the made-up bundle does not have; collects what was loaded."""
    loaded: list[MeanRuntime] = []

    def load(bundle: Bundle, engine: EngineSettings) -> MeanRuntime:
        loaded.append(MeanRuntime())
        return loaded[-1]

    monkeypatch.setattr(evaluate, "load_runtime", load)
    return loaded


def test_evaluate_prints_one_json_object(
    tmp_path: Path, data: Path, runtimes: list[MeanRuntime], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` prints one object and nothing else; without masks the pixel figures are null; the engine is closed."""
    bundle = make_bundle(tmp_path / "out")
    assert main(["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(data), "--json"]) == 0
    shown = capsys.readouterr()
    value = json.loads(shown.out)
    assert "no masks" in shown.err
    assert f"looked for them in {data / 'ground_truth'}" in shown.err
    assert value["bundle"] == bundle.short_hash
    assert (value["image_auroc"], value["escape_rate"], value["false_reject_rate"]) == (1.0, 0.0, 0.0)
    assert (value["pixel_auroc"], value["pro"]) == (None, None)
    assert set(value["by_type"]) == {"blot"}
    assert [runtime.closed for runtime in runtimes] == [True]


def test_evaluate_prints_a_table(
    tmp_path: Path, data: Path, runtimes: list[MeanRuntime], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --json a person reads the promise beside what was measured, intervals, and a row per defect type."""
    make_bundle(tmp_path / "out")
    assert main(["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "promised" in shown
    assert "blot" in shown
    assert "AUROC per part 1.0000 (1.0000-1.0000), per pixel -; PRO -" in shown


@pytest.mark.usefixtures("runtimes")
def test_evaluate_says_what_the_figures_do_not(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parts that the bundle has learnt from, and masks that mark nothing, are told on standard error."""
    learnt = [image_hash(load_image(data / "test/good" / f"{index}.png")) for index in range(2)]
    make_bundle(tmp_path / "out", data=fingerprint(learnt))
    (data / "ground_truth/blot").mkdir(parents=True)
    for index in range(2):
        Image.new("L", (CANVAS.width_px, CANVAS.height_px)).save(data / f"ground_truth/blot/{index}_mask.png")
    assert main(["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(data)]) == 0
    told = capsys.readouterr().err
    assert "2 of 4 images are among those that the bundle was calibrated from" in told
    assert "2 masks of defects mark nothing" in told
    assert "no masks" not in told


@pytest.fixture
def with_errors(data: Path) -> Path:
    """The same, with a good part that is too bright, and six faint blots, one of a name that is no UTF-8."""
    grain = np.random.default_rng(0).integers(0, 8, (CANVAS.height_px, CANVAS.width_px, 3), np.uint8)
    Image.fromarray(grain + np.uint8(90)).save(data / "test/good/bright.png")
    names = [f"faint{level}.png" for level in range(35, 40)] + [b"faint-\xff.png".decode("utf-8", "surrogateescape")]
    for name, level in zip(names, (*range(35, 40), 20), strict=True):
        Image.fromarray(grain + np.uint8(level)).save(data / "test/blot" / name)
    return data


@pytest.mark.usefixtures("runtimes")
def test_evaluate_names_its_errors(tmp_path: Path, with_errors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names the worst of both kinds first, and says where the others are; the JSON object names all."""
    make_bundle(tmp_path / "out")
    command = ["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(with_errors)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    named = [line.split(":")[0].rsplit("/", 1)[1] for line in shown.splitlines() if ", limit " in line]
    assert named == [r"faint-\udcff.png", "faint35.png", "faint36.png", "faint37.png", "faint38.png", "bright.png"]
    assert "missed: 6 parts" in shown
    assert "wrongly rejected: 1 part" in shown
    assert "and 1 more: --parts" in shown
    assert main([*command, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (len(value["missed"]), value["escapes"]) == (6, 6)
    assert value["wrongly_rejected"] == [str(with_errors / "test/good/bright.png")]


@pytest.mark.usefixtures("runtimes")
def test_evaluate_writes_the_table_of_parts_and_the_sheet(tmp_path: Path, with_errors: Path) -> None:
    """Both in one call; the table agrees with the figures, the sheet is a picture; what was there is replaced."""
    bundle = make_bundle(tmp_path / "out")
    parts, sheet = tmp_path / "parts.csv", tmp_path / "sheet.png"
    parts.write_text("of before")
    command = ["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(with_errors)]
    assert main([*command, "--parts", str(parts), "--sheet", str(sheet)]) == 0
    with parts.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert Counter(row["error"] for row in rows) == {"missed": 6, "wrongly rejected": 1, "": 4}
    for row in rows:
        scores = [float(row[f"{name}_score"]) for name in ("part", "region_left", "region_right")]
        limits = [float(row[f"{name}_limit"]) for name in ("part", "region_left", "region_right")]
        assert limits[0] == bundle.thresholds.part.value
        assert (row["verdict"] == "REJECT") == any(s > limit for s, limit in zip(scores, limits, strict=True))
    with Image.open(sheet) as picture:
        assert (picture.format, picture.width > 1000) == ("PNG", True)
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("option", "name", "code", "says"),
    [
        ("--parts", "nowhere/parts.csv", 8, "there is no folder"),
        ("--sheet", "folder.png", 8, "is a folder"),
        ("--parts", "parts.xlsx", 2, "must end in .csv"),
        ("--sheet", "sheet.jpg", 2, "must end in .png"),
    ],
)
def test_evaluate_refuses_files_that_cannot_be_before_it_starts(  # noqa: PLR0917 - of pytest
    option: str,
    name: str,
    code: int,
    says: str,
    tmp_path: Path,
    data: Path,
    runtimes: list[MeanRuntime],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, and no engine is loaded."""
    make_bundle(tmp_path / "out")
    (tmp_path / "folder.png").mkdir()
    command = ["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(data)]
    assert main([*command, option, str(tmp_path / name)]) == code
    assert says in capsys.readouterr().err
    assert not runtimes


@pytest.mark.usefixtures("runtimes")
def test_evaluate_refuses_unlabelled_data(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain folder of images has no labels to compare with: one line, exit code 5."""
    make_bundle(tmp_path / "out")
    assert main(["evaluate", "--bundle", str(tmp_path / "out"), "--data", str(data / "train/good")]) == 5
    assert "holds no labelled parts" in capsys.readouterr().err


def test_evaluate_without_a_bundle(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a bundle: one line, exit code 4."""
    assert main(["evaluate", "--bundle", str(data), "--data", str(data)]) == 4
    assert "holds no bundle" in capsys.readouterr().err
