"""Data folders: layouts, splits by part, and one clear line for each folder that is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.dataset import Layout, Sample, folds, read_dataset, split
from calibration.errors import DataError, TooFewParts
from calibration.images import load_image, load_mask

PAPER = Path(__file__).parents[3] / "shared" / "data" / "paper"


def picture(path: Path, value: int = 7, size: tuple[int, int] = (6, 4)) -> Path:
    """Write a small picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """A set in MVTec layout, with the files that the published sets carry beside their images."""
    for name in ("000", "001"):
        picture(tmp_path / "train/good" / f"{name}.png")
        picture(tmp_path / "test/good" / f"{name}.png")
        picture(tmp_path / "test/crack" / f"{name}.png")
        picture(tmp_path / "ground_truth/crack" / f"{name}_mask.png", 255)
        picture(tmp_path / "test/stain" / f"{name}.png")
    (tmp_path / "license.txt").write_text("CC")
    return tmp_path


def test_mvtec_layout(mvtec: Path) -> None:
    """Good parts come from train/good; tests carry defect type and mask where there is one."""
    data = read_dataset(mvtec)
    assert data.layout is Layout.MVTEC
    assert [sample.path.name for sample in data.good] == ["000.png", "001.png"]
    assert sorted({sample.label for sample in data.labelled}) == ["crack", "good", "stain"]
    cracks = [sample for sample in data.labelled if sample.label == "crack"]
    assert [sample.mask_path for sample in cracks] == [
        mvtec / "ground_truth/crack/000_mask.png",
        mvtec / "ground_truth/crack/001_mask.png",
    ]
    assert all(sample.mask_path is None for sample in data.labelled if sample.label != "crack")
    assert len({sample.part_id for sample in (*data.good, *data.labelled)}) == 8


@pytest.mark.parametrize(("image", "mask"), [("bmp", "png"), ("png", "png"), ("bmp", "bmp"), ("BMP", "PNG")])
def test_btad_layout(tmp_path: Path, image: str, mask: str) -> None:
    """train/ok, test/ok, test/ko and masks of the image's own name, in the file types of the three products."""
    picture(tmp_path / f"train/ok/0000.{image}")
    picture(tmp_path / f"test/ok/0001.{image}")
    picture(tmp_path / f"test/ko/0002.{image}")
    picture(tmp_path / f"ground_truth/ko/0002.{mask}", 255)
    (tmp_path / "test/ko/Thumbs.db").write_bytes(b"from a file manager")
    data = read_dataset(tmp_path)
    assert data.layout is Layout.BTAD
    assert [(sample.label, sample.mask_path) for sample in data.labelled] == [
        ("ko", tmp_path / f"ground_truth/ko/0002.{mask}"),
        ("good", None),
    ]


def test_file_types_may_be_mixed(tmp_path: Path) -> None:
    """bmp and png beside each other are read; two files that differ in the type alone are two parts."""
    for name in ("0000.bmp", "0000.png", "0001.PNG"):
        picture(tmp_path / "train/ok" / name)
    picture(tmp_path / "test/ok/0000.bmp")
    ids = [sample.part_id for sample in read_dataset(tmp_path).good]
    assert ids == ["train/0000.bmp", "train/0000.png", "train/0001"]


@pytest.mark.parametrize(
    "name",
    [
        *("Good", "OK", "ok", "normal", "i.O.", "Defect-free", "no_defect", "pass", "gut"),
        *("0_good", "Good parts", "good (2)", "OK_images", "Gutteile", "non-defective", "良品", "OK品"),
    ],
)
def test_good_parts_go_by_their_usual_names(mvtec: Path, name: str) -> None:
    """In any case, with any dashes; what was taken for good parts is said, and NG stays a defect."""
    (mvtec / "test/good").rename(mvtec / "test" / f"{name}-")
    (mvtec / "test" / f"{name}-").rename(mvtec / "test" / name)
    picture(mvtec / "test/NG/000.png")
    data = read_dataset(mvtec)
    labels = {sample.path.parent.name: sample.label for sample in data.labelled}
    assert labels == {name: "good", "crack": "crack", "stain": "stain", "NG": "NG"}
    assert [note.endswith(f"taken for good parts: train/good, test/{name}") for note in data.notes] == [True]


@pytest.mark.parametrize(
    "name", ["NOK", "n.i.O.", "not good", "no_good", "not-ok parts", "bad", "abnormal", "nonconforming", "0", "parts"]
)
def test_defects_are_not_taken_for_good_parts(mvtec: Path, name: str) -> None:
    """Names that hold one of good parts."""
    picture(mvtec / "test" / name / "000.png")
    assert {sample.label for sample in read_dataset(mvtec).labelled} == {"good", "crack", "stain", name}


def test_the_folders_of_a_set_may_be_written_in_any_case(mvtec: Path) -> None:
    """Train, Test and Ground_Truth with the masks of Crack are those of MVTec AD; two of one name are refused."""
    (mvtec / "train/good").rename(mvtec / "train/Good")
    (mvtec / "ground_truth/crack").rename(mvtec / "ground_truth/Crack")
    for name, other in (("train", "Train"), ("test", "TEST"), ("ground_truth", "Ground_Truth")):
        (mvtec / name).rename(mvtec / other)
    data = read_dataset(mvtec)
    assert [sample.part_id for sample in data.good] == ["train/000", "train/001"]
    masks = [sample.mask_path for sample in data.labelled if sample.label == "crack"]
    assert masks[0] == mvtec / "Ground_Truth/Crack/000_mask.png"
    (mvtec / "test").mkdir()
    with pytest.raises(DataError, match="holds TEST and test; which of them counts"):
        read_dataset(mvtec)


def test_a_set_without_good_test_parts_says_so(mvtec: Path) -> None:
    """Its false rejects cannot be told, and nobody has to find out from a zero."""
    for file in (mvtec / "test/good").iterdir():
        file.unlink()
    (mvtec / "test/good").rmdir()
    (note,) = read_dataset(mvtec).notes
    assert "test: has no good parts (looked for good, found crack, stain)" in note


def test_a_set_as_distributed_needs_no_word(mvtec: Path) -> None:
    """Nothing is said of what is plain."""
    assert read_dataset(mvtec).notes == ()


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", ".cache"])
def test_what_systems_leave_behind_is_passed_over(mvtec: Path, name: str) -> None:
    """Archives of a Mac, disks of Windows and file servers have folders of their own."""
    for folder in (mvtec / "train", mvtec / "train/good", mvtec / "test", mvtec / "ground_truth", mvtec):
        (folder / name).mkdir()
    assert len(read_dataset(mvtec).good) == 2


def test_footage_may_lie_behind_links(tmp_path: Path) -> None:
    """A link to an image on another disk is read, as in every other layout; a path that leads out is not."""
    kept = picture(tmp_path / "elsewhere/0.png")
    footage = tmp_path / "footage"
    footage.mkdir()
    (footage / "0.png").symlink_to(kept)
    (footage / "metadata.jsonl").write_text(json.dumps({"file": "0.png", "part_id": "1", "label": "OK"}))
    (sample,) = read_dataset(footage).good
    assert (sample.path, sample.label) == (footage / "0.png", "good")
    for name in (str(kept), "../elsewhere/0.png"):
        (footage / "metadata.jsonl").write_text(json.dumps({"file": name, "part_id": "1"}))
        with pytest.raises(DataError, match="outside the folder"):
            read_dataset(footage)


@pytest.mark.parametrize("place", ["train/good/1.png", "test/crack/1.png", "ground_truth/crack/001_mask.png"])
def test_a_pipe_among_the_images_is_refused(mvtec: Path, place: str) -> None:
    """It would be waited for without end; so is a link that leads nowhere."""
    (mvtec / place).unlink(missing_ok=True)
    os.mkfifo(mvtec / place)
    with pytest.raises(DataError, match=rf"{Path(place).name}: is no file"):
        read_dataset(mvtec)
    (mvtec / place).unlink()
    (mvtec / place).symlink_to(mvtec / "nowhere.png")
    with pytest.raises(DataError, match=rf"{Path(place).name}: is no file"):
        read_dataset(mvtec)


def test_tables_that_do_not_count_are_told(mvtec: Path) -> None:
    """A second table, one that lacks a column, and a part with two rows; a CSV about something else is not."""
    (mvtec / "a.csv").write_text("file;severity\ntest/crack/000.png;faint\n")
    (mvtec / "b.csv").write_text("file,severity,size_px\ntest/crack/000.png,faint,4\ntest/crack/000.png,plain,5\n")
    (mvtec / "c.csv").write_text("file;severity;size_px\ntest/crack/000.png;strong;9\n")
    (mvtec / "d.csv").write_text("shift,operator\n1,2\n")
    (mvtec / "e.csv").write_text("")
    data = read_dataset(mvtec)
    assert {(s.severity, s.size_px) for s in data.labelled if s.severity} == {("plain", 5.0)}
    assert data.notes == (
        f"{mvtec / 'a.csv'}: is no table of defects: it lacks the column size_px",
        f"{mvtec / 'b.csv'}: 1 parts have several rows, such as 'test/crack/000.png'; the last of them counts",
        f"{mvtec / 'c.csv'}: is not read, because b.csv is a table of defects, too",
    )


def test_a_pipe_named_as_a_table_is_passed_over(mvtec: Path) -> None:
    """It would be waited for without end."""
    os.mkfifo(mvtec / "defects.csv")
    assert len(read_dataset(mvtec).labelled) == 6


def test_good_parts_may_have_masks(mvtec: Path) -> None:
    """Masks of good parts, which some sets carry, are handed on, and none is missed."""
    picture(mvtec / "ground_truth/good/000_mask.png", 0)
    good = [sample for sample in read_dataset(mvtec).labelled if sample.label == "good"]
    assert [sample.mask_path for sample in good] == [mvtec / "ground_truth/good/000_mask.png", None]


def test_severity_and_size_from_the_table(mvtec: Path) -> None:
    """A CSV with file, severity and size_px describes the defects."""
    (mvtec / "metadata.csv").write_text(
        "file,label,severity,size_px\ntest/crack/000.png,crack,faint,4.5\ntest/good/000.png,good,,\n"
    )
    found = {s.path.relative_to(mvtec).as_posix(): (s.severity, s.size_px) for s in read_dataset(mvtec).labelled}
    assert found["test/crack/000.png"] == ("faint", 4.5)
    assert found["test/crack/001.png"] == found["test/good/000.png"] == ("", None)


@pytest.mark.parametrize(
    "table",
    [
        "file;severity;size_px\ntest/crack/000.png;faint;4,5\n",
        "file\tseverity\tsize_px\ntest/crack/000.png\tfaint\t4.5\n",
        "file,severity,size_px\ntest\\crack\\000.png,faint,4.5\n",
        "\ufefffile ; severity ; size_px\n.\\test\\crack\\000.png ; faint ; 4,5\n",
        "File;Severity;Size_px\ntest/crack/000.png;faint;4,5\n",
        '"file","severity","size_px"\n"test/crack/000.png","faint","4,5"\n',
        "sep=;\nfile;severity;size_px\ntest/crack/000.png;faint;4,5\n",
        "sep=|\r\nfile|severity|size_px\r\ntest/crack/000.png|faint|4.5\r\n",
    ],
    ids=["semicolon", "tab", "backslashes", "spaces", "capitals", "quotes", "separator line", "crlf"],
)
def test_a_table_is_read_as_spreadsheets_write_it(mvtec: Path, table: str) -> None:
    """Separators, decimal commas and backslashes of other countries and systems say the same."""
    (mvtec / "defects.csv").write_bytes(table.encode())
    data = read_dataset(mvtec)
    assert {(s.severity, s.size_px) for s in data.labelled if s.severity} == {("faint", 4.5)}
    assert data.notes == ()


def test_rows_that_name_no_part_are_told(mvtec: Path) -> None:
    """A table whose paths start elsewhere would describe nothing, in silence."""
    (mvtec / "defects.csv").write_text("file,severity,size_px\ncrack/000.png,faint,4.5\n")
    (note,) = read_dataset(mvtec).notes
    assert "1 of 1 rows name no part of test, such as 'crack/000.png'" in note


def test_plain_folder(tmp_path: Path) -> None:
    """A folder of images is good parts without labels."""
    picture(tmp_path / "b.jpg")
    picture(tmp_path / "a.png")
    data = read_dataset(tmp_path)
    assert (data.layout, data.labelled) == (Layout.PLAIN, ())
    assert [sample.part_id for sample in data.good] == ["a", "b"]


def test_footage(tmp_path: Path) -> None:
    """Recorded footage takes part ids and labels from its metadata."""
    lines = []
    for index, (part, label) in enumerate([("p1", ""), ("p1", "good"), ("p2", "crack")]):
        picture(tmp_path / f"{index}.png")
        lines.append(json.dumps({"file": f"{index}.png", "part_id": part, "label": label}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    data = read_dataset(tmp_path)
    assert data.layout is Layout.FOOTAGE
    assert [sample.part_id for sample in data.good] == ["p1", "p1"]
    assert [sample.label for sample in data.labelled] == ["good", "good", "crack"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is no JSON object"),
        ('{"file": "../x.png", "part_id": "1"}', "outside the folder"),
        ('{"file": "x.png", "part_id": "1"}', r"x\.png: named in metadata\.jsonl \(line 1\) but missing"),
        ("", "names no images"),
    ],
)
def test_bad_footage_is_one_line(tmp_path: Path, line: str, message: str) -> None:
    """Broken metadata names the file and the line."""
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_wrong_folders_are_one_line(tmp_path: Path, mvtec: Path) -> None:
    """Absent, empty, a file, an unknown layout, a non-image, a missing mask: each names what is wrong."""
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="is a file"):
        read_dataset(mvtec / "license.txt")
    (mvtec / "train/good/setup.exe").write_bytes(b"MZ")
    with pytest.raises(DataError, match=r"setup\.exe: is no image"):
        read_dataset(mvtec)
    (mvtec / "train/good/setup.exe").unlink()
    (mvtec / "ground_truth/crack/001_mask.png").unlink()
    with pytest.raises(DataError, match=r"001\.png: has no mask"):
        read_dataset(mvtec)


@pytest.mark.parametrize(
    ("made", "asked", "message"),
    [
        (
            ["bottle/train/good/0.png", "cable/train/good/0.png"],
            "",
            r"holds 2 data sets \(bottle, cable\).*give.*bottle$",
        ),
        (["BTech/01/train/ok/0.bmp", "BTech/03/train/ok/0.bmp"], "", r"\(BTech/01, BTech/03\).*give.*BTech/01$"),
        (["train/good/0.png", "test/good/0.png"], "train", r"one half of a data set; give .*, which holds train"),
        (["train/good/0.png", "train/hole/0.png"], "", r"train: holds folders good, hole; .*train and test swapped"),
        (["train/good/0.png", "train/ok/0.png"], "", r"train: holds folders good, ok; .*one folder"),
        (["train/bad/0.png"], "", r"train: looked for good \(MVTec AD\) or ok \(BTAD\), found folders bad"),
        (["train/0.png", "test/good/0.png"], "", r"train: looked for good .* found no folders"),
        (
            ["train/good/0.png", "test/hole/0.png", "ground_truth/hole/0_mask.png", "ground_truth/hole/0.png"],
            "",
            r"0\.png and 0_mask\.png are both a mask of 0",
        ),
        (
            ["train/good/0.png", "test/hole/0.png", "test/hole/0.bmp", "ground_truth/hole/0_mask.png"],
            "",
            r"0_mask\.png: 0\.bmp and 0\.png are both its image",
        ),
        (["train/good/0.png", "test/0.png"], "", r"0\.png: looked for folders good and <defect> in test"),
        (["train/good/", "test/good/0.png"], "", r"good: holds no images"),
        (["train/good/0.png", "test/hole/"], "", r"hole: holds no images"),
        (
            ["train/good/0.png", "test/hole/0.png", "ground_truth/hole/"],
            "",
            r"hole.0\.png: has no mask: looked for 0_mask\.png and 0\.png or \.bmp in .*hole",
        ),
        (
            ["train/good/0.png", "test/hole/0.png", "ground_truth/crack/0_mask.png"],
            "",
            r"crack: masks of a defect that test does not have; it has folders hole",
        ),
        (
            ["colour/red/0.png", "shape/0.png"],
            "",
            r"looked for images, or for train/good .*; found folders colour, shape",
        ),
        (["train/good/red/0.png"], "", r"red: a folder among images"),
    ],
)
def test_wrong_layouts_are_one_line(tmp_path: Path, made: list[str], asked: str, message: str) -> None:
    """Whatever is wrong with the folders, the line says what was looked for and what was found."""
    for name in made:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            picture(tmp_path / name)
    with pytest.raises(DataError, match=message) as refused:
        read_dataset(tmp_path / asked)
    assert "\n" not in str(refused.value)


def test_image_modes(tmp_path: Path) -> None:
    """Grey, 16-bit, palette and transparent images become uint8 RGB of the same look."""
    grey = np.array([[0, 200]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png").tolist() == [[[0, 0, 0], [200, 200, 200]]]
    Image.fromarray(np.array([[0, 200 * 256 + 9]], np.uint16)).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png").tolist() == [[[0, 0, 0], [200, 200, 200]]]
    Image.fromarray(np.array([[[255, 0, 0, 255], [255, 255, 255, 0]]], np.uint8)).save(tmp_path / "alpha.png")
    assert load_image(tmp_path / "alpha.png").tolist() == [[[255, 0, 0], [0, 0, 0]]]
    Image.fromarray(np.array([[[9, 8, 7]]], np.uint8)).convert("P").save(tmp_path / "palette.png")
    assert load_image(tmp_path / "palette.png").shape == (1, 1, 3)


def test_exif_turn_is_applied(tmp_path: Path) -> None:
    """A photograph that says it lies on its side is turned upright."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "side.jpg", exif=exif)
    assert load_image(tmp_path / "side.jpg").shape == (8, 4, 3)


def test_a_damaged_exif_tag_turns_nothing(tmp_path: Path) -> None:
    """The picture is sound; what a broken camera or tool wrote beside it does not end a calibration."""
    Image.new("RGB", (8, 4)).save(tmp_path / "side.jpg", exif=b"Exif\0\0no TIFF at all")
    assert load_image(tmp_path / "side.jpg").shape == (4, 8, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_cut_off_file_is_refused(tmp_path: Path, suffix: str) -> None:
    """An image of which the end is missing is refused with its name, not read as half a part."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(pixels).save(whole)
    half = tmp_path / f"half{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"half\{suffix}: (damaged image|is no image)"):
        load_image(half)


def test_text_named_as_image_is_refused(tmp_path: Path) -> None:
    """A file that only calls itself an image is refused with its name."""
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(DataError, match=r"a\.png: is no image"):
        load_image(tmp_path / "a.png")


def test_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A small file that claims to be 20000 x 20000 pixels is refused."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match="megapixels"):
        load_image(tmp_path / "huge.png")


def test_mask_is_true_where_not_black(tmp_path: Path) -> None:
    """Masks of 0/255 and of 0/1 mark the defect, at any depth: those of labelling tools often have 16 bits."""
    for value, dtype in ((1, np.uint8), (255, np.uint8), (1, np.uint16), (255, np.uint16), (65_535, np.uint16)):
        Image.fromarray(np.array([[0, value]], dtype)).save(tmp_path / "m.png")
        assert load_mask(tmp_path / "m.png").tolist() == [[False, True]]


def test_noise_of_a_jpeg_mask_is_no_defect(tmp_path: Path) -> None:
    """Compression leaves greys around what was drawn."""
    drawn = np.zeros((40, 40), np.uint8)
    drawn[10:21, 12:29] = 255
    Image.fromarray(drawn).save(tmp_path / "m.jpg", quality=60)
    assert (load_mask(tmp_path / "m.jpg") != (drawn > 0)).sum() <= 4


def make_samples(parts: int, frames: int) -> list[Sample]:
    """`frames` frames of each of `parts` parts."""
    return [
        Sample(part_id=f"part{part}", path=Path(f"{part}_{frame}.png"))
        for part in range(parts)
        for frame in range(frames)
    ]


def test_split_keeps_frames_of_a_part_together() -> None:
    """No part is on both sides, and the share is of parts."""
    training, held_out = split(make_samples(20, 3), 0.3, seed=1)
    assert len(held_out) == 18
    assert {s.part_id for s in training}.isdisjoint(s.part_id for s in held_out)


def test_split_ignores_the_order_of_files() -> None:
    """The same parts in another order are split the same way; another seed splits otherwise."""
    samples = make_samples(20, 2)
    shuffled = [samples[index] for index in np.random.default_rng(0).permutation(len(samples))]
    assert split(samples, 0.3, seed=1) == split(shuffled, 0.3, seed=1)
    assert split(samples, 0.3, seed=1) != split(samples, 0.3, seed=2)


def test_folds_hold_each_part_out_once() -> None:
    """Every part is held out in exactly one fold, with all its frames; sizes differ by one part at most."""
    samples = make_samples(11, 2)
    pairs = folds(samples, 4, seed=0)
    held_out = [sample.path for _, held in pairs for sample in held]
    assert sorted(held_out) == sorted(sample.path for sample in samples)
    assert sorted(len(held) // 2 for _, held in pairs) == [2, 3, 3, 3]
    assert all({s.part_id for s in rest}.isdisjoint(s.part_id for s in held) for rest, held in pairs)


def test_too_few_parts_to_split() -> None:
    """One part cannot be split, and three cannot make four folds, however many frames they have."""
    with pytest.raises(TooFewParts, match="at least 2"):
        split(make_samples(1, 9), 0.3, seed=0)
    with pytest.raises(TooFewParts, match="4 folds need at least 4 parts"):
        folds(make_samples(3, 9), 4, seed=0)


@pytest.mark.skipif(not PAPER.is_dir(), reason="shared data are absent")
def test_real_sets_are_read() -> None:
    """The real sets beside the checkout are read whole, masks included."""
    for folder in sorted(path for path in PAPER.iterdir() if path.is_dir()):
        data = read_dataset(folder)
        assert (len(data.good), len(data.labelled)) == (32, 64)
        marked = [sample for sample in data.labelled if sample.mask_path is not None]
        assert len(marked) == 48
        assert load_mask(marked[0].mask_path).shape == load_image(marked[0].path).shape[:2]
