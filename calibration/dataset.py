"""Data folders -> samples: MVTec AD, BTAD, plain folders, recorded footage. Splits go by part, never by frame."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from calibration.defect_table import find_table
from calibration.errors import DataError, TooFewParts
from calibration.images import IMAGE_SUFFIXES, load_image, load_mask
from engines.labels import GOOD, OF_THE_SETS, label_of, means_good
from engines.leftovers import left_behind

__all__ = ["GOOD", "DataSet", "Layout", "Sample", "folds", "load_image", "load_mask", "read_dataset", "split"]

# What the published sets and the tools lay beside their images.
IGNORED_SUFFIXES = frozenset({".txt", ".md", ".csv", ".json", ".jsonl", ".pdf"})
SUFFIXES = ", ".join(sorted(IMAGE_SUFFIXES))
METADATA_NAME = "metadata.jsonl"


class Layout(StrEnum):
    """How a data folder is laid out."""

    MVTEC = "mvtec"
    BTAD = "btad"
    FOOTAGE = "footage"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image file. `label` is "good" or the defect type; `mask_path` is None where no mask was given.

    severity and size_px describe the defect where a CSV file in the folder does, else "" and None.
    """

    part_id: str
    path: Path
    label: str = GOOD
    mask_path: Path | None = None
    severity: str = ""
    size_px: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What a folder holds: good parts to learn from, and labelled parts to evaluate on (empty where unlabelled).

    notes: what a person should know of how the folder was read, one line each.
    """

    folder: Path
    layout: Layout
    good: tuple[Sample, ...]
    labelled: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


def read_dataset(folder: Path) -> DataSet:
    """List a data folder, whatever its layout; opens no image. Raises DataError, naming the file or folder at fault."""
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give a folder of images")
    entries = _entries(folder)
    names = {entry.name for entry in entries if entry.is_dir()}
    if _inner(folder, "train").is_dir():
        return _read_labelled(folder)
    if (folder / METADATA_NAME).is_file():
        return _read_footage(folder)
    if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries):
        good = _images(folder)
        return DataSet(folder=folder, layout=Layout.PLAIN, good=good, labelled=())
    if names:
        raise DataError(_unknown_layout(folder, names))
    raise DataError(f"{folder}: holds no images ({SUFFIXES})")


def split(samples: Sequence[Sample], held_out_share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Divide into (training, held out) so that all frames of a part fall on one side.

    held_out_share: share of the parts, in (0, 1); each side gets at least one. Depends on the part ids and the seed
    alone, not on the order of the samples. Raises TooFewParts for fewer than two parts.
    """
    order = _shuffled_parts(samples, seed)
    if len(order) < 2:
        raise TooFewParts(f"{len(order)} good part(s): a split needs at least 2")
    count = min(max(round(len(order) * held_out_share), 1), len(order) - 1)
    held_out = set(order[:count])
    ordered = _by_path(samples)
    return [s for s in ordered if s.part_id not in held_out], [s for s in ordered if s.part_id in held_out]


def folds(samples: Sequence[Sample], k: int, seed: int) -> list[tuple[list[Sample], list[Sample]]]:
    """k pairs of (training, held out); each part is held out exactly once, with all its frames.

    Sizes differ by one part at most. Independent of the samples' order. Raises TooFewParts for fewer than k parts.
    """
    order = _shuffled_parts(samples, seed)
    if k < 2 or len(order) < k:
        raise TooFewParts(f"{len(order)} good part(s): {k} folds need at least {max(k, 2)} parts (and 2 folds)")
    fold_of = {part_id: index % k for index, part_id in enumerate(order)}
    ordered = _by_path(samples)
    return [
        ([s for s in ordered if fold_of[s.part_id] != fold], [s for s in ordered if fold_of[s.part_id] == fold])
        for fold in range(k)
    ]


def _shuffled_parts(samples: Sequence[Sample], seed: int) -> list[str]:
    """Part ids in a seeded order, whatever order the files came in."""
    return sorted(
        {sample.part_id for sample in samples},
        key=lambda part_id: hashlib.sha256(f"{seed}/{part_id}".encode()).digest(),
    )


def _by_path(samples: Sequence[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: (sample.part_id, str(sample.path)))


def _unknown_layout(folder: Path, names: Set[str]) -> str:
    """What a folder of folders is instead of a data set: one level too high, one too low, or nothing known."""
    classes = [path for name in sorted(names) for path in _classes(folder / name)]
    if classes:
        found = [path.relative_to(folder).as_posix() for path in classes]
        return f"{folder}: holds {len(found)} data sets ({_some(found, 20)}), not one; give one, such as {classes[0]}"
    if _inner(folder.parent, "train").is_dir():
        return f"{folder}: is one half of a data set; give {folder.parent}, which holds train"
    return (
        f"{folder}: looked for images, or for train/good (MVTec AD) or train/ok (BTAD); found folders "
        f"{_some(sorted(names))}"
    )


def _classes(folder: Path) -> list[Path]:
    """The data sets that `folder` is or holds: MVTec AD comes as <class>/train, BTAD as <archive>/<class>/train."""
    if _inner(folder, "train").is_dir():
        return [folder]
    return [entry for entry in _entries(folder) if entry.is_dir() and _inner(entry, "train").is_dir()]


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not left_behind(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _inner(folder: Path, name: str) -> Path:
    """The entry of this name in any case; where there is none, the path that it would have.

    Raises DataError for two of them, or a folder that cannot be read.
    """
    found = [entry for entry in _entries(folder) if entry.name.lower() == name.lower()]
    if len(found) > 1:
        raise DataError(f"{folder}: holds {found[0].name} and {found[1].name}; which of them counts? Put them together")
    return found[0] if found else folder / name


def _images(
    folder: Path, label: str = GOOD, prefix: str = "", mask_of: Callable[[Path], Path | None] = lambda path: None
) -> tuple[Sample, ...]:
    """The images directly in a folder; anything else there is a DataError."""
    images = []
    for entry in _entries(folder):
        if entry.is_dir():
            raise DataError(f"{entry}: a folder among images; give one folder of images, or MVTec layout")
        if entry.suffix.lower() in IMAGE_SUFFIXES:
            images.append(_regular(entry))
        elif entry.suffix.lower() not in IGNORED_SUFFIXES:
            raise DataError(f"{entry}: is no image ({SUFFIXES}); remove it from the folder")
    if not images:
        raise DataError(f"{folder}: holds no images ({SUFFIXES})")
    stems = Counter(image.stem for image in images)  # 000.bmp and 000.png are two parts
    return tuple(
        Sample(
            part_id=f"{prefix}{image.stem if stems[image.stem] == 1 else image.name}",
            path=image,
            label=label,
            mask_path=mask_of(image),
        )
        for image in images
    )


def _regular(path: Path) -> Path:
    """The path of a file, or of a link to one. Raises DataError: a pipe would be waited for without end."""
    if not path.is_file():
        raise DataError(f"{path}: is no file, or a link to none; remove it from the folder")
    return path


def _read_labelled(folder: Path) -> DataSet:
    """MVTec AD (good) and BTAD (ok, ko), as distributed, and sets of that layout whose good parts have other names."""
    good_name = _good_name(folder)
    good = _images(_inner(folder, "train") / good_name, prefix="train/")
    kinds = _kinds(folder)
    labelled: list[Sample] = []
    for kind in kinds:
        masks = _masks(folder, kind.name)
        good_kind = means_good(kind.name)
        finder = _mask_finder(masks, needed=not good_kind) if masks is not None else lambda path: None
        label = GOOD if good_kind else kind.name
        labelled.extend(_images(kind, label=label, prefix=f"test/{kind.name}/", mask_of=finder))
    layout = Layout.BTAD if good_name == "ok" else Layout.MVTEC
    described, about = _with_defects(folder, labelled)
    notes = (*_taken_for_good(folder, good_name, kinds), *about)
    return DataSet(folder=folder, layout=layout, good=good, labelled=described, notes=notes)


def _masks(folder: Path, kind: str) -> Path | None:
    """The folder of masks of a kind of part, None where it has none."""
    truth = _inner(folder, "ground_truth")
    masks = _inner(truth, kind) if truth.is_dir() else truth
    return masks if truth.is_dir() and masks.is_dir() else None


def _taken_for_good(folder: Path, good_name: str, kinds: Sequence[Path]) -> list[str]:
    """Which folders were taken for good parts, where that is not plain; that test has none, or several."""
    good = [kind.name for kind in kinds if means_good(kind.name)]
    said = []
    if {good_name, *good} - OF_THE_SETS or len({good_name, *good}) > 1:
        taken = [f"train/{good_name}", *(f"test/{name}" for name in good)]
        said.append(f"{folder}: taken for good parts: {', '.join(taken)}")
    if kinds and not good:
        others = _some([kind.name for kind in kinds])
        said.append(
            f"{_inner(folder, 'test')}: has no good parts (looked for {good_name}, found {others}): false rejects and "
            "AUROC cannot be told"
        )
    return said


def _good_name(folder: Path) -> str:
    """What the set calls its good parts; train holds nothing else."""
    train = _inner(folder, "train")
    names = [entry.name for entry in _entries(train) if entry.is_dir()]
    if len(names) == 1 and means_good(names[0]):
        return names[0]
    if any(means_good(name) for name in names):
        raise DataError(
            f"{train}: holds folders {_some(names)}; only good parts are learnt from, so looked for one folder, good "
            "(MVTec AD) or ok (BTAD); are train and test swapped?"
        )
    found = f"folders {_some(names)}" if names else "no folders"
    raise DataError(f"{train}: looked for good (MVTec AD) or ok (BTAD), found {found}")


def _kinds(folder: Path) -> list[Path]:
    """The folders of test, in order; none without test. Those of ground_truth must be among them."""
    test, masks = _inner(folder, "test"), _inner(folder, "ground_truth")
    kinds = []
    for entry in _entries(test) if test.is_dir() else []:
        if entry.is_dir():
            kinds.append(entry)
        elif entry.suffix.lower() not in IGNORED_SUFFIXES:
            raise DataError(f"{entry}: looked for folders good and <defect> in test, found this file")
    names = {kind.name.lower() for kind in kinds}
    for entry in _entries(masks) if masks.is_dir() else []:
        if entry.is_dir() and entry.name.lower() not in names:
            has = _some([kind.name for kind in kinds]) or "none"
            raise DataError(f"{entry}: masks of a defect that test does not have; it has folders {has}")
    return kinds


def _with_defects(folder: Path, labelled: Sequence[Sample]) -> tuple[tuple[Sample, ...], list[str]]:
    """Severity and size added from the table of defects in the folder, and what to say of it."""
    files = [entry for entry in _entries(folder) if entry.suffix.lower() == ".csv" and entry.is_file()]
    table, notes = find_table(files)
    if table is None:
        return tuple(labelled), list(notes)
    unknown = ("", None)
    found = [(sample, table.rows.get(sample.path.relative_to(folder).as_posix(), unknown)) for sample in labelled]
    described = tuple(replace(sample, severity=severity, size_px=size) for sample, (severity, size) in found)
    names = {sample.path.relative_to(folder).as_posix() for sample in labelled}
    if strangers := sorted(set(table.rows) - names):
        notes += (
            f"{table.path}: {len(strangers)} of {len(table.rows)} rows name no part of test, such as {strangers[0]!r}: "
            "paths start at the data folder (test/scratch/000.png)",
        )
    return described, list(notes)


def _mask_finder(masks: Path, *, needed: bool) -> Callable[[Path], Path | None]:
    """000.png -> 000_mask.png (MVTec) or 000.png, 000.bmp (BTAD); a defect type has all its masks or none.

    Not `needed`: good parts, some sets give them black masks.
    """
    by_stem: dict[str, Path] = {}
    for entry in _entries(masks):
        if entry.suffix.lower() in IMAGE_SUFFIXES:
            stem = entry.stem.removesuffix("_mask")
            if stem in by_stem:
                raise DataError(f"{masks}: {by_stem[stem].name} and {entry.name} are both a mask of {stem}; remove one")
            by_stem[stem] = _regular(entry)
    seen: dict[str, Path] = {}

    def find(image: Path) -> Path | None:
        mask = by_stem.get(image.stem.removesuffix("_mask"))
        other = seen.setdefault(image.stem, image)
        if mask is not None and other != image:
            raise DataError(f"{mask}: {other.name} and {image.name} are both its image; give them names of their own")
        if mask is None and needed:
            raise DataError(
                f"{image}: has no mask: looked for {image.stem}_mask.png and {image.stem}.png or .bmp in {masks}; add "
                "it, or remove that folder"
            )
        return mask

    return find


def _read_footage(folder: Path) -> DataSet:
    """What `inspectd record` wrote: images, and one JSON object per image in metadata.jsonl."""
    samples = []
    path = folder / METADATA_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            name, part_id = str(entry["file"]), str(entry["part_id"])
            label = label_of(str(entry.get("label") or GOOD))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: line {number} is no JSON object with file and part_id") from None
        image = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{path}: line {number} names {name}, outside the folder")
        if not image.is_file():
            raise DataError(f"{image}: named in {METADATA_NAME} (line {number}) but missing")
        samples.append(Sample(part_id=part_id, path=image, label=label))
    if not samples:
        raise DataError(f"{path}: names no images")
    good = tuple(sample for sample in samples if sample.label == GOOD)
    return DataSet(folder=folder, layout=Layout.FOOTAGE, good=good, labelled=tuple(samples))
