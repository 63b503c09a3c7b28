"""`inspectd calibrate --data DIR` without a station, as a person meets it: what it says, writes, refuses and makes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from locating.drawn_parts import bracket, random_pose

from engines.settings import CanvasSettings
from inspectd import auto_station
from inspectd.__main__ import main
from inspectd.auto_station import choose, station_name, station_yaml
from inspectd.commands.calibrate import snapshot
from inspectd.config import load_station
from inspectd.errors import UsageError
from inspectd.loading import find_bundle, part_template

pytest.importorskip("torch")

PARTS = 18


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of brackets at any angle, below the current folder."""
    folder = tmp_path / "Brass Brackets #2"
    folder.mkdir()
    for seed in range(PARTS):
        cv2.imwrite(str(folder / f"{seed:03d}.png"), bracket(random_pose(seed), None, seed)[..., ::-1])
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_station_is_told_of_written_and_loads(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed says what was seen and chosen; the file says the same in comments, and loads by its path."""
    assert main(["calibrate", "--data", photos.name, "--survey-only"]) == 0
    shown = capsys.readouterr()
    assert "it lies turned by any angle" in shown.out
    assert 'locate "part": each part is found and aligned, because it turns by more than 10 degrees' in shown.out
    assert "station: brass-brackets-2.yaml" in shown.out
    assert f"{PARTS} different parts are few" in shown.err
    text = Path("brass-brackets-2.yaml").read_text(encoding="utf-8")
    assert "# - it lies turned by any angle" in text
    station = load_station("brass-brackets-2.yaml")
    assert (station.station, station.locate.mode, station.model.score) == ("brass-brackets-2", "part", "memory")
    assert station.camera.kind == "folder"
    assert station.camera.path == Path(photos.name)
    assert not Path("bundles").exists()


def test_a_file_that_is_there_is_kept_until_force(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A station that a person edited is never overwritten unasked; with --force it is."""
    file = Path("mine.yaml")
    file.write_text("edited", encoding="utf-8")
    ask = ["calibrate", "--data", str(photos), "--survey-only", "--name", "mine", "--station-out", str(file)]
    assert main(ask) == 2
    assert "mine.yaml is there" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "edited"
    assert main([*ask, "--force"]) == 0
    assert load_station("mine.yaml").station == "mine"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--survey-only"], 2, "give --station, or --data"),
        (["--station", "object", "--data", "x", "--survey-only"], 2, "--survey-only is for making a station"),
        (["--data", "nowhere"], 5, "nowhere: no such folder"),
        (["--data", "empty"], 5, "holds no images"),
        (["--data", "few"], 5, "3 different pictures of good parts: a station needs at least 5"),
        (["--data", "few", "--name", "Line 3"], 2, "a station's name is"),
        (["--data", "few", "--station-out", "line3"], 2, "ends with .yaml"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    photos: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, words: str
) -> None:
    """Each has the documented exit code, and leaves no file behind."""
    Path("empty").mkdir()
    Path("few").mkdir()
    for name in ("000.png", "001.png", "002.png"):
        (Path("few") / name).write_bytes((photos / name).read_bytes())
    assert main(["calibrate", *options]) == code
    assert words in capsys.readouterr().err
    assert list(Path().glob("*.yaml")) == []


def test_excluded_parts_are_not_surveyed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of parts to leave out counts for the survey, as it does for the calibration."""
    Path("odd.txt").write_text("000.png\n", encoding="utf-8")
    assert main(["calibrate", "--data", str(photos), "--survey-only", "--exclude", "odd.txt"]) == 0
    assert f"{PARTS - 1} good pictures" in capsys.readouterr().out


@pytest.mark.slow
def test_the_bundle_is_that_of_the_written_station(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was calibrated without --station is the active bundle of the file that was written, and fits it."""
    small = CanvasSettings(height_px=64, width_px=64)
    monkeypatch.setattr(auto_station, "_shaped", lambda side, height, width: small)
    assert main(["calibrate", "--data", photos.name]) == 0
    assert "station: brass-brackets-2.yaml" in capsys.readouterr().out
    station = load_station("brass-brackets-2.yaml")
    bundle = find_bundle(station, None)
    assert bundle.manifest.settings == snapshot(station)
    assert bundle.manifest.settings.canvas == small
    assert part_template(bundle) is not None
    assert bundle.thresholds.parts == PARTS


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("photos/Nuts/train/good", "nuts"),
        ("photos/Öse (groß)", "se-gro"),
        ("photos/---", "station"),
        ("photos/" + "x" * 80, "x" * 64),
    ],
)
def test_the_name_comes_from_the_folder(folder: str, name: str) -> None:
    """Whatever a folder is called, the station has a name that settings allow."""
    assert station_name(Path("/line") / folder) == name


def test_an_impossible_name_is_refused() -> None:
    """Settings would refuse it later, with less help."""
    with pytest.raises(UsageError, match="lower-case"):
        station_name(Path("nuts"), "../nuts")


@pytest.mark.parametrize("folder", ["a: b # c", 'it\'s "odd"', "new\nline: {x: 1}", "ünï", "{braces}", "- dash", "\t"])
def test_odd_folders_do_not_break_the_file(tmp_path: Path, folder: str) -> None:
    """Quotes, comment signs and line breaks of a folder's name stay what they are, and settings what was chosen."""
    from calibration.survey import Picture, survey

    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(6)]
    found = survey([Picture(folder, lambda image=image: image) for image in images])
    file = tmp_path / "odd.yaml"
    choice = choose(found)
    text = station_yaml("odd", Path(folder), Path(folder), found, choice)
    file.write_text(text, encoding="utf-8")
    station = load_station(str(file))
    assert station.camera.kind == "folder"
    assert station.camera.path == Path(folder)
    assert station.canvas == choice.canvas
    assert station.locate.mode == choice.locate
