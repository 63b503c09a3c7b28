"""Evaluation of a labelled set, through real files and a runtime whose scores are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from bundle_making import CANVAS, REGIONS, MeanRuntime, good_scores
from numpy.typing import NDArray
from PIL import Image

from calibration.dataset import Sample, read_dataset
from calibration.errors import DataError
from calibration.evaluate import Evaluation, Prepared, Uninspectable, evaluate, part_mask
from calibration.threshold import choose_thresholds
from engines.artifact import DataFingerprint, ThresholdSet, fingerprint, image_hash

SHAPE = (CANVAS.height_px, CANVAS.width_px)
IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
DEFECT = (slice(20, 30), slice(12, 30))


def limits() -> ThresholdSet:
    """Limits a little over 0.5 for parts of about 0.4."""
    part, regions = good_scores(300)
    return choose_thresholds(part, regions, ["left", "right"], asked_rate=0.02, confidence=0.95)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def part(level: int, defect: int = 0) -> NDArray[np.uint8]:
    """A part of one grey level, with a brighter defect in region left."""
    pixels = np.full((*SHAPE, 3), level, np.uint8)
    pixels[DEFECT] += np.uint8(defect)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """10 good parts (one too bright), 4 plain cracks with masks, 4 faint stains without masks."""
    save(tmp_path / "train/good/0.png", part(40))
    mask = np.zeros(SHAPE, np.uint8)
    mask[DEFECT] = 255
    rows = ["file,label,severity,size_px"]
    for index in range(10):
        save(tmp_path / f"test/good/{index}.png", part(70 if index == 9 else 36 + index))
    for index in range(4):
        save(tmp_path / f"test/crack/{index}.png", part(38 + index, 190))
        save(tmp_path / f"ground_truth/crack/{index}_mask.png", mask)
        rows.append(f"test/crack/{index}.png,crack,plain,12")
        save(tmp_path / f"test/stain/{index}.png", part(38 + index, 2))
        rows.append(f"test/stain/{index}.png,stain,faint,{4 + index}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    return tmp_path


def prepare(frame: NDArray[np.uint8]) -> Prepared:
    """The whole frame is the part."""
    return Prepared(frame, IDENTITY)


def run(folder: Path, how: object = prepare) -> Evaluation:
    """Evaluate the folder, and check that progress was told of every part."""
    told: list[tuple[int, int]] = []
    samples = read_dataset(folder).labelled
    result = evaluate(
        samples,
        how,  # type: ignore[arg-type]
        MeanRuntime(),
        limits(),
        regions=REGIONS,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, len(samples)) for done in range(1, len(samples) + 1)]
    return result


def test_figures_by_type(folder: Path) -> None:
    """Cracks are found and marked, stains escape; the bright good part is the one false reject."""
    result = run(folder)
    assert (result.overall.good, result.overall.defective) == (10, 8)
    assert (result.overall.false_rejects, result.overall.escapes) == (1, 4)
    assert result.overall.false_reject_rate == pytest.approx(0.1)
    assert result.overall.escape_rate == pytest.approx(0.5)
    crack, stain = result.by_type["crack"], result.by_type["stain"]
    # Cracks score 0.56 to 0.59: above 9 of the 10 good parts, below the bright one.
    assert (crack.image_auroc, crack.tpr_at_10fpr, crack.escapes) == (pytest.approx(0.9), 1.0, 0)
    assert crack.pixel_auroc == pytest.approx(1.0, abs=0.01)
    assert crack.pro == pytest.approx(1.0, abs=0.05)
    assert (stain.escapes, stain.pixel_auroc, stain.pro) == (4, None, None)


def test_figures_by_severity_and_size(folder: Path) -> None:
    """The metadata table groups the defects; every group is compared with all good parts."""
    result = run(folder)
    assert set(result.by_severity) == {"plain", "faint"}
    assert set(result.by_size) == {"03-05 px", "06-08 px", "12+ px"}
    assert result.by_size["03-05 px"].defective == 2
    assert all(figures.good == 10 for figures in result.by_size.values())


def test_frames_are_not_parts(folder: Path) -> None:
    """Eight images of each part are one part: intervals do not shrink, and one rejected image rejects it."""
    samples = read_dataset(folder).labelled
    frames = [replace(sample, path=sample.path) for sample in samples for _ in range(8)]
    runtime = MeanRuntime()

    def measured(of: Sequence[Sample]) -> Evaluation:
        return evaluate(of, prepare, runtime, limits(), regions=REGIONS, progress=lambda done, total: None)

    once, eight = measured(samples), measured(frames)
    assert eight.overall == once.overall
    assert eight.by_type == once.by_type
    assert (eight.to_json()["images"], eight.overall.good, eight.overall.defective) == (144, 10, 8)


def test_a_part_is_rejected_where_one_of_its_images_is(folder: Path) -> None:
    """As the line would: the bright image rejects the part that nine others would pass."""
    one = [replace(sample, part_id="1") for sample in read_dataset(folder).labelled if sample.label == "good"]
    figures = evaluate(
        one, prepare, MeanRuntime(), limits(), regions=REGIONS, progress=lambda done, total: None
    ).overall
    assert (figures.good, figures.false_rejects) == (1, 1)


def test_an_inverted_mask_is_told_apart(folder: Path) -> None:
    """What is not black counts as the defect: a white one with a black defect marks nearly everything."""
    assert run(folder).wide_masks == 0
    for path in (folder / "ground_truth/crack").iterdir():
        save(path, 255 - np.asarray(Image.open(path)))
    assert run(folder).wide_masks == 4


def test_uninspectable_part_counts_as_rejected(folder: Path) -> None:
    """A part that cannot be located is INVALID: rejected, counted apart, and out of the areas."""

    def no_bright_part(frame: NDArray[np.uint8]) -> Prepared:
        if frame.mean() > 60:
            raise Uninspectable("several_parts")
        return prepare(frame)

    result = run(folder, no_bright_part)
    assert (result.overall.invalid_good, result.overall.false_rejects) == (1, 1)
    assert result.overall.invalid_defective + result.overall.invalid_good == sum(result.invalid_reasons.values())
    assert set(result.invalid_reasons) == {"several_parts"}


def test_not_a_number_is_invalid(folder: Path) -> None:
    """A NaN score never passes a part."""
    runtime = MeanRuntime()
    runtime.bias = float("nan")
    samples = read_dataset(folder).labelled
    result = evaluate(samples, prepare, runtime, limits(), regions=REGIONS, progress=lambda done, total: None)
    assert result.overall.escapes == 0
    assert result.invalid_reasons == {"not_a_number": 18}
    assert result.overall.image_auroc is None


def test_masks_follow_the_part(folder: Path) -> None:
    """Where the part image is shifted, the mask is shifted with it."""

    def shifted(frame: NDArray[np.uint8]) -> Prepared:
        return Prepared(np.roll(frame, 7, axis=1), np.array([[1.0, 0.0, 7.0], [0.0, 1.0, 0.0]]))

    moved = run(folder, shifted).by_type["crack"].pixel_auroc
    assert moved is not None
    assert moved > 0.98


def test_small_defects_of_large_pictures_are_not_lost() -> None:
    """Shrunk sixteenfold, a point keeps a pixel wherever it lies, and a fine line stays one defect."""
    small = np.array([[1 / 16, 0.0, 0.0], [0.0, 1 / 16, 0.0]])
    for place in range(0, 1000, 77):
        mask = np.zeros((1024, 1024), np.uint8)
        mask[place : place + 2, 1000 - place : 1002 - place] = 255
        assert 1 <= warped(mask, small).sum() <= 4
    line = np.zeros((1024, 1024), np.uint8)
    cv2.line(line, (40, 90), (980, 700), 255, 2)
    assert cv2.connectedComponents(warped(line, small).astype(np.uint8), connectivity=8)[0] == 2


def test_masks_shrunk_along_one_side_are_widened_along_it_alone() -> None:
    """A frame of another shape than the canvas: x by 8, y as it is."""
    mask = np.zeros((64, 512), np.uint8)
    mask[30, 100] = 255
    found = warped(mask, np.array([[1 / 8, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert found.any(axis=1).sum() == 1
    assert found.any()


def test_small_defects_of_parts_that_lie_askew_are_not_lost() -> None:
    """A pixel of the canvas then shows a diamond of the frame."""
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2) / 8
    matrix = np.column_stack([turn, [32.0, 0.0]])
    for place in range(60, 190, 3):
        mask = np.zeros((256, 256), np.uint8)
        mask[place, 256 - place - 40] = 255
        assert warped(mask, matrix).any()


def warped(mask: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The mask of a defective part on a canvas of 64x64."""
    with TemporaryDirectory() as folder:
        save(Path(folder) / "mask.png", mask)
        sample = Sample(part_id="a", path=Path("a.png"), label="crack", mask_path=Path(folder) / "mask.png")
        return part_mask(sample, mask.shape, matrix, (64, 64))


def test_a_mask_that_marks_nothing_makes_no_good_surface_of_a_defect(folder: Path) -> None:
    """Its part has no part in pixel figures, which stay those of the others; it is counted."""
    before = run(folder)
    save(folder / "test/crack/9.png", part(38, 190))
    save(folder / "ground_truth/crack/9_mask.png", np.zeros(SHAPE, np.uint8))
    after = run(folder)
    assert (before.empty_masks, after.empty_masks) == (0, 1)
    assert after.overall.pixel_auroc == before.overall.pixel_auroc
    assert after.overall.pro == before.overall.pro
    assert after.to_json()["empty_masks"] == 1


def test_parts_that_were_learnt_from_are_counted(folder: Path) -> None:
    """Known by their pixels, wherever the file lies now; a bundle that kept no marks knows none."""
    learnt = fingerprint(image_hash(part(36 + index)) for index in (0, 3, 40))
    samples = read_dataset(folder).labelled

    def count(data: DataFingerprint) -> int:
        result = evaluate(samples, prepare, MeanRuntime(), limits(), regions=REGIONS, learnt=data, progress=nothing)
        return result.learnt_from

    assert count(learnt) == 2
    assert count(learnt.model_copy(update={"images": ()})) == 0


def nothing(done: int, total: int) -> None:
    """No progress."""


def test_mask_of_another_size_is_named(folder: Path) -> None:
    """A mask that does not fit its image is one line with both sizes."""
    save(folder / "ground_truth/crack/0_mask.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(DataError, match=r"0_mask\.png: 6x5 pixels, its image has 96x64"):
        run(folder)


def test_a_defect_on_a_good_part_is_named(folder: Path) -> None:
    """A black mask of a good part is fine; one that marks a defect is one line with the mask and the image."""
    save(folder / "ground_truth/good/0_mask.png", np.zeros(SHAPE, np.uint8))
    assert run(folder).overall.pixel_auroc is not None
    save(folder / "ground_truth/good/0_mask.png", np.full(SHAPE, 255, np.uint8))
    with pytest.raises(DataError, match=r"0_mask\.png: marks a defect on .*0\.png, which is labelled good"):
        run(folder)


def test_intervals_hold_their_figures(folder: Path) -> None:
    """Image AUROC, pixel AUROC and PRO come with intervals that hold them, the same each time."""
    overall = run(folder).overall
    for name in ("image_auroc", "pixel_auroc", "pro"):
        figure, interval = getattr(overall, name), getattr(overall, f"{name}_interval")
        assert interval[0] - 1e-3 <= figure <= interval[1] + 1e-3
    assert run(folder).overall == overall


def test_json_is_flat_and_complete(folder: Path) -> None:
    """The JSON object holds the named figures at the top and in every group, and no NaN."""
    value = json.loads(json.dumps(run(folder).to_json(), allow_nan=False))
    names = ["image_auroc", "pixel_auroc", "pro", "fpr_at_95tpr", "tpr_at_10fpr", "false_reject_rate", "escape_rate"]
    for figures in (value, value["by_type"]["crack"], value["by_severity"]["faint"], value["by_size"]["12+ px"]):
        assert set(names) <= set(figures)
    assert value["invalid"] == 0
    assert value["by_type"]["stain"]["pro"] is None
    low, high = value["escape_interval"]
    assert 0 < low < 0.5 < high < 1
