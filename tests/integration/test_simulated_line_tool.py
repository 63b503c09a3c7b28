"""tools/simulated_line.py as a user runs it: the set on disk, the sheet, one clear line where it cannot be written."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from inspectd.cameras.capacitor_defects import DefectType

TOOL = Path(__file__).parents[2] / "tools" / "simulated_line.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool to its end."""
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set: 4 good to train, 3 good and 27 defective to test."""
    out = tmp_path_factory.mktemp("line") / "set"
    done = run("--out", str(out), "--train", "4", "--good", "3", "--defective", "27", "--seed", "5")
    assert done.returncode == 0, done.stderr
    assert "4 parts to train, 3 good and 27 defective to test" in done.stdout
    return out


def test_the_set_has_the_mvtec_layout(rendered: Path) -> None:
    """train/good, test/good, test/<defect>, and a mask of the same size for each defective part."""
    assert len(list((rendered / "train/good").glob("*.png"))) == 4
    assert len(list((rendered / "test/good").glob("*.png"))) == 3
    assert {folder.name for folder in (rendered / "test").iterdir()} == {"good", *DefectType}
    for kind in DefectType:
        pictures = sorted((rendered / "test" / kind).iterdir())
        assert len(pictures) == 3
        for picture in pictures:
            mask = cv2.imread(str(rendered / "ground_truth" / kind / f"{picture.stem}_mask.png"), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            assert mask.shape == (200, 240)
            assert mask.max() == 255
            image = cv2.imread(str(picture))
            assert image is not None
            assert image.shape == (200, 240, 3)


def test_the_metadata_names_each_picture_with_its_truth(rendered: Path) -> None:
    """One row a picture: label as its folder, severity and size where defective; all 27 combinations occur."""
    with (rendered / "metadata.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert {row["file"] for row in rows} == {
        path.relative_to(rendered).as_posix() for part in ("train", "test") for path in (rendered / part).rglob("*.png")
    }
    assert all(Path(row["file"]).parent.name == row["label"] for row in rows)
    defective = [row for row in rows if row["label"] != "good"]
    assert len({(row["label"], row["severity"]) for row in defective}) == 27
    assert all(3 <= float(row["size_px"]) <= 15 for row in defective)
    assert all((row["severity"], row["size_px"]) == ("", "0") for row in rows if row["label"] == "good")


def test_same_seed_same_files_and_no_part_twice(rendered: Path, tmp_path: Path) -> None:
    """The set is a function of its arguments, and train, good and defective parts are all different parts."""
    again = tmp_path / "again"
    assert run("--out", str(again), "--train", "4", "--good", "3", "--defective", "27", "--seed", "5").returncode == 0
    contents = {}
    for file in rendered.rglob("*.png"):
        assert file.read_bytes() == (again / file.relative_to(rendered)).read_bytes()
        if "ground_truth" not in file.parts:
            contents[file] = file.read_bytes()
    assert len(set(contents.values())) == len(contents) == 34


def test_a_folder_that_holds_something_is_left_alone(rendered: Path) -> None:
    """Writing over a set is refused with one line and the code for storage."""
    done = run("--out", str(rendered))
    assert done.returncode == 8
    assert done.stderr.count("\n") == 1
    assert "not an empty folder" in done.stderr


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    """A file where a folder should be: no traceback."""
    (tmp_path / "file").write_text("x")
    for arguments in (("--out", str(tmp_path / "file/set"), "--train", "1"), ("--sheet", str(tmp_path / "file/s.png"))):
        done = run(*arguments)
        assert done.returncode == 8
        assert "Traceback" not in done.stderr
        assert "cannot be written" in done.stderr


def test_the_sheet_alone_is_one_picture(tmp_path: Path) -> None:
    """--sheet without --out draws everything the line makes, and nothing else."""
    done = run("--sheet", str(tmp_path / "sheet.png"))
    assert done.returncode == 0, done.stderr
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet.shape == (1380, 1620, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("arguments", [(), ("--out", "x", "--train", "-1"), ("--out", "x", "--good", "many")])
def test_wrong_arguments_are_told_in_one_line_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    """Nothing to do, a negative or a non-number."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "error:" in done.stderr.splitlines()[-1]
