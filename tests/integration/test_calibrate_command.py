"""`inspectd calibrate` as a person meets it when something about the good parts is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from line_values import settings
from yaml import safe_dump

from engines.artifact import open_bundle
from engines.golden import verify
from engines.runtimes import load_runtime
from engines.settings import EngineSettings
from inspectd.__main__ import main
from inspectd.cameras.simulated import render_part
from inspectd.commands.calibrate import snapshot
from inspectd.commands.good_parts import read_good_parts
from inspectd.config import load_station

pytest.importorskip("torch")


def _station(folder: Path) -> str:
    path = folder / "test.yaml"
    path.write_text(safe_dump(settings(folder)))
    return str(path)


def _parts(folder: Path, indices: list[int]) -> Path:
    folder.mkdir()
    for number, index in enumerate(indices):
        image = render_part(3, index).image
        cv2.imwrite(str(folder / f"{number:03d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("inspectd:")]
    assert len(lines) == 1, lines
    return lines[0]


def _calibrate(folder: Path, data: Path) -> int:
    return main(["calibrate", "--station", _station(folder), "--data", str(data), "--out", str(folder / "out")])


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good parts that are not there end with code 5 and the folder's name."""
    assert _calibrate(tmp_path, tmp_path / "nowhere") == 5
    assert "nowhere: no such folder" in _one_line(capsys)


def test_too_few_good_parts_say_how_many_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three parts are refused before any training, with the number that is needed."""
    assert _calibrate(tmp_path, _parts(tmp_path / "few", [0, 1, 2])) == 5
    assert "at least 16" in _one_line(capsys)


@pytest.mark.parametrize(("grain", "look_at"), [(0, "light, exposure and lens"), (6, "locate settings")])
def test_images_without_a_part_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], grain: int, look_at: str
) -> None:
    """When most images show no part, the line names some and where to look: one grey is no matter of locate."""
    data = _parts(tmp_path / "parts", [0, 1])
    for number in range(20):
        dark = np.random.default_rng(number).integers(12, 13 + grain, (200, 240), np.uint8)
        cv2.imwrite(str(data / f"dark{number:02d}.png"), dark)
    assert _calibrate(tmp_path, data) == 5
    text = _one_line(capsys)
    assert "20 of 22 images show no part" in text
    assert look_at in text


def test_a_frozen_camera_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture many times over is no matter of too few parts."""
    assert _calibrate(tmp_path, _parts(tmp_path / "parts", [4] * 30)) == 5
    assert "all 30 images are the same: is the camera frozen?" in _one_line(capsys)


def test_a_file_that_is_no_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text file that claims to be an image ends with code 5 and its name."""
    data = _parts(tmp_path / "parts", list(range(3)))
    (data / "999.png").write_text("not an image")
    assert _calibrate(tmp_path, data) == 5
    assert "999.png" in _one_line(capsys)


def test_repeated_images_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same picture twice is one part: it must not lie on both sides of a split."""
    data = _parts(tmp_path / "parts", [0, 1, 2, 1, 0])
    parts = read_good_parts(load_station(_station(tmp_path)), data, lambda what, done, total: None)
    assert len(parts.images) == 3
    assert "2 images that repeat" in capsys.readouterr().err


def test_images_of_several_sizes_are_refused_as_the_line_refuses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`camera.fixed_size` is on: one line with the sizes; off: they are learnt from, and the report says so."""
    data = _parts(tmp_path / "parts", list(range(6)))
    for path in sorted(data.iterdir())[:2]:
        cv2.imwrite(str(path), cv2.copyMakeBorder(cv2.imread(str(path)), 0, 0, 30, 30, cv2.BORDER_REPLICATE))
    assert _calibrate(tmp_path, data) == 5
    text = _one_line(capsys)
    assert "images of several sizes, such as" in text
    assert "camera.fixed_size: false" in text
    station = load_station(_station(tmp_path))
    camera = station.camera.model_copy(update={"fixed_size": False})
    parts = read_good_parts(station.model_copy(update={"camera": camera}), data, lambda what, done, total: None)
    (warning,) = parts.warnings(snapshot(station))
    assert warning.startswith("images have 2 sizes: 240x200 (4 images), 300x200 (2); ")


def test_instant_is_a_memory_of_few_parts_that_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight parts of a station with a student make a bundle without one; it runs, and says what is missing."""
    data = _parts(tmp_path / "parts", list(range(8)))
    arguments = ["calibrate", "--station", _station(tmp_path), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(arguments) == 5, "eight parts are too few for the student"
    capsys.readouterr()
    assert main([*arguments, "--preset", "instant"]) == 0
    said = capsys.readouterr().out
    assert "preset instant" in said
    assert "no student is trained" in said
    (folder,) = (tmp_path / "out" / "test").iterdir()
    bundle = open_bundle(folder)
    assert bundle.manifest.preset == "instant"
    assert bundle.manifest.settings.model.score == "memory"
    assert [row.precision for row in bundle.manifest.engine.parity] == ["f32"]
    runtime = load_runtime(bundle, EngineSettings())
    try:
        assert verify(bundle, runtime).images == len(bundle.manifest.golden)
    finally:
        runtime.close()


def test_the_report_ranks_samples_by_the_scores_that_limits_were_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample's rank, its score, the histogram and the limits are of one kind: of what did not learn from it."""
    written: list[Any] = []
    monkeypatch.setattr("calibration.calibrate.write_report", lambda path, data: written.append(data))
    data = _parts(tmp_path / "parts", list(range(8)))
    asked = ["calibrate", "--station", _station(tmp_path), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*asked, "--preset", "instant"]) == 0
    (report,) = written
    in_order = np.sort(report.part_scores)
    assert len(report.samples) >= 3
    shown = [(sample.name, sample.part_score) for sample in report.samples]
    ranks = [int(name.split("rank ")[1].split(" of ")[0]) for name, _ in shown]
    assert [score for _, score in shown] == [in_order[rank - 1] for rank in ranks]
    assert ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (1, len(in_order))
