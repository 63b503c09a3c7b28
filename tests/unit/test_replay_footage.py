"""Footage on disk -> parts: which files, in which order, under which names."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from line_values import verdict

from inspectd.errors import CameraError
from inspectd.messages import Outcome, Record, StoredImage
from inspectd.records.ledger import Ledger
from inspectd.replay.footage import Footage


def write(path: Path, grey: int = 0) -> Path:
    """A small image of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 10, 3), grey, np.uint8))
    return path


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    """part_2 comes before part_10; sub-folders and other files are left out; it can be read twice."""
    for number in (10, 2, 1):
        write(tmp_path / f"part_{number}.png", number)
    (tmp_path / "notes.txt").write_text("x")
    write(tmp_path / "inner" / "part_3.png")
    footage = Footage(tmp_path)
    parts = list(footage)
    assert footage.parts == 3
    assert [part.part_id for part in parts] == ["part_1", "part_2", "part_10"]
    assert [int(part.image[0, 0, 0]) for part in parts if part.image is not None] == [1, 2, 10]
    assert [part.part_id for part in footage] == ["part_1", "part_2", "part_10"]
    assert not any(part.named or part.label for part in parts)


def test_a_labelled_set_gives_labels_and_leaves_masks_out(tmp_path: Path) -> None:
    """test/<defect>/x.png is a part with that label; ground_truth and hidden folders hold none."""
    for name in ("train/good/1.png", "test/good/1.png", "test/scratch/1.png", "ground_truth/scratch/1_mask.png"):
        write(tmp_path / name)
    write(tmp_path / ".cache" / "1.png")
    found = {part.part_id: part.label for part in Footage(tmp_path)}
    assert found == {"train/good/1": "good", "test/good/1": "good", "test/scratch/1": "scratch"}


def test_a_set_written_in_another_case_keeps_its_labels(tmp_path: Path) -> None:
    """Test/OK and Ground_Truth are what they are in lower case; what a file server leaves behind is no part."""
    names = ("Test/OK/1.png", "Test/Scratch/1.png", "Ground_Truth/Scratch/1_mask.png", "Test/OK/@eaDir/1.png/thumb.jpg")
    for name in (*names, "__MACOSX/Test/OK/2.png"):
        write(tmp_path / name)
    found = {part.part_id: part.label for part in Footage(tmp_path)}
    assert found == {"Test/OK/1": "good", "Test/Scratch/1": "Scratch"}


def test_two_files_of_one_stem_are_two_parts(tmp_path: Path) -> None:
    """000.png beside 000.bmp: each has a name of its own, in a folder and in a set."""
    for folder in (tmp_path / "set/test/OK", tmp_path / "folder"):
        for name in ("0.bmp", "0.png", "1.png"):
            write(folder / name)
    assert [part.part_id for part in Footage(tmp_path / "folder")] == ["0.bmp", "0.png", "1"]
    names = [part.part_id for part in Footage(tmp_path / "set")]
    assert names == ["test/OK/0.bmp", "test/OK/0.png", "test/OK/1"]


def test_a_tree_without_that_layout_has_no_labels(tmp_path: Path) -> None:
    """Folders by day, say, are read in order and say nothing of the truth."""
    for name in ("tuesday/2.png", "monday/1.png"):
        write(tmp_path / name)
    assert [(part.part_id, part.label) for part in Footage(tmp_path)] == [("monday/1", ""), ("tuesday/2", "")]


def test_saved_parts_keep_their_names_and_sources(tmp_path: Path) -> None:
    """What `inspectd record` wrote, in the order of its metadata."""
    lines = []
    for name in ("b.png", "a.png"):
        write(tmp_path / name)
        lines.append(json.dumps({"file": name, "part_id": f"id-{name}", "source": f"cam:{name}", "label": "good"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    parts = list(Footage(tmp_path))
    assert [(part.part_id, part.source, part.named) for part in parts] == [
        ("id-b.png", "cam:b.png", True),
        ("id-a.png", "cam:a.png", True),
    ]
    assert parts[0].file == str(tmp_path / "b.png")


@pytest.mark.parametrize("line", ["{", '{"file": "a.png"}', '{"file": "../a.png", "part_id": "1"}', "[]", ""])
def test_broken_metadata_is_one_clear_line(tmp_path: Path, line: str) -> None:
    """A line that `inspectd record` never wrote, or none at all, is refused before anything is replayed."""
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(CameraError, match=r"metadata\.jsonl"):
        Footage(tmp_path)


def test_records_give_the_parts_whose_image_was_kept(tmp_path: Path) -> None:
    """By sequence number, under their own part_id; those without an image are counted."""
    ledger = Ledger(tmp_path)
    for seq in (1, 2, 3):
        ledger.write([Record(verdict=verdict(seq, Outcome.REJECT), source=f"cam/{seq}")])
    for seq in (3, 1):
        stored = StoredImage(seq=seq, path=f"images/{seq}.png", size_bytes=1)
        write(tmp_path / stored.path, seq)
        ledger.write([stored])
    ledger.close()
    for path in (tmp_path, tmp_path / "records.db"):
        footage = Footage(path)
        parts = list(footage)
        assert [(part.seq, part.part_id, part.source, part.label) for part in parts] == [
            (1, "p1", "cam/1", "good"),
            (3, "p3", "cam/3", "good"),
        ]
        assert footage.left_out == 1
        assert all(part.image is not None for part in parts)


def test_an_unreadable_image_is_a_part_with_a_fault(tmp_path: Path) -> None:
    """It becomes INVALID like on the line; the footage goes on."""
    write(tmp_path / "2.png")
    (tmp_path / "1.png").write_bytes(b"nothing")
    first, second = Footage(tmp_path)
    assert first.image is None
    assert "1.png" in first.fault
    assert second.image is not None


@pytest.mark.parametrize("name", ["missing", "empty", "notes.txt"])
def test_what_is_no_footage_is_refused(tmp_path: Path, name: str) -> None:
    """A missing path, an empty folder, a file that is no video."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(CameraError, match=name):
        Footage(tmp_path / name)
