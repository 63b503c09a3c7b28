"""The good parts of a folder: read, located and cut as the line does it, and what is left out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from engines.alignment import PartTemplate
from engines.artifact import image_hash
from engines.pictures import Levels, to_8_bits
from inspectd.config import Station
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import DeepImage, Image, Pose, Reason

if TYPE_CHECKING:
    from calibration.calibrate import GoodParts
    from calibration.dataset import Sample
    from calibration.map_store import ImageStack

MOST_UNFIT: Final = 0.1
SHOWN_UNFIT: Final = 5
EXCLUDED: Final = "exclude.txt"
POSES: Final = ("pose_x_px", "pose_y_px", "pose_angle_deg", "pose_scale")
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Found:
    """What was read so far. unfit: names of images that show no part, and why; repeated: that repeat another one."""

    images: ImageStack
    part_ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    unfit: list[tuple[str, Reason]] = field(default_factory=list)
    repeated: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    hashes: set[str] = field(default_factory=set)

    def add(self, sample: Sample, frame: DeepImage, locator: Locator) -> None:
        """Locate the part in a frame and keep its image, unless it was seen before or shows no part."""
        self.sizes[frame.shape[1], frame.shape[0]] += 1
        try:
            located = locator.locate(frame)
        except LocateFault as fault:
            self.unfit.append((sample.path.name, fault.reason))
            return
        digest = image_hash(located.part_image)
        if digest in self.hashes:  # the same picture on both sides of a split would flatter the limits
            self.repeated += 1
            return
        self.hashes.add(digest)
        self.images.add(located.part_image)
        self.part_ids.append(sample.part_id)
        self.names.append(sample.path.name)
        self.poses.append(located.pose)


def read_good_parts(
    station: Station,
    data: Path,
    progress: Callable[[str, int, int], None],
    template: PartTemplate | None = None,
    levels: Levels | None = None,
    *,
    excluded: frozenset[str] = frozenset(),
) -> GoodParts:
    """Read, locate and cut every good part of a folder but those `excluded`, by name or path.

    template, levels: of a bundle, where parts are to be located as there; else locate.mode part learns one from these
    parts, and images of more than 8 bits are brought to 8 by their own range.
    Raises DataError when too many of them cannot be located, they show no part that could be learnt, an excluded one
    is not there, or the station's camera allows one size of image and they have several.
    """
    from calibration.calibrate import GoodParts
    from calibration.dataset import read_dataset
    from calibration.errors import DataError
    from calibration.grey_levels import grey_levels
    from calibration.images import load_frame
    from calibration.map_store import ImageStack

    dataset = read_dataset(data)
    for note in dataset.notes:
        print(f"inspectd: {note}", file=sys.stderr)
    samples, left_out = without_excluded(dataset.good, data, excluded)
    if not samples:
        raise DataError(f"{data}: holds no good parts")
    grey = grey_levels([sample.path for sample in samples], levels or station.levels, progress)
    levels = None if grey is None else grey.levels
    words: tuple[str, ...] = () if grey is None else (grey.seen,)
    if station.locate.mode == "part" and template is None:
        template, of_the_part = _learn_template([sample.path for sample in samples], data, levels, progress)
        words += of_the_part
    locator = Locator(station.locate, station.canvas, template, levels)
    with ImageStack() as images:
        found = _Found(images)
        for done, sample in enumerate(samples, start=1):
            found.add(sample, load_frame(sample.path), locator)
            _check_one_size(station, data, found.sizes)
            progress("read parts", done, len(samples))
        if len(found.unfit) > MOST_UNFIT * len(samples):
            shown = ", ".join(f"{name} ({reason.value})" for name, reason in found.unfit[:SHOWN_UNFIT])
            raise DataError(
                f"{data}: {len(found.unfit)} of {len(samples)} images show no part to learn from, such as {shown}; "
                f"check {_what_to_check({reason for _, reason in found.unfit})}"
            )
        if found.repeated and found.images.count == 1:
            raise DataError(f"{data}: all {found.repeated + 1} images are the same: is the camera frozen?")
        _tell_of(found)
        poses = [(pose.x_px, pose.y_px, pose.angle_deg, pose.scale) for pose in found.poses]
        return GoodParts(
            images.array(),
            tuple(found.part_ids),
            dict(zip(POSES, np.asarray(poses, dtype=np.float64).T, strict=True)),
            names=tuple(found.names),
            unfit=len(found.unfit),
            sizes=found.sizes,
            grey=grey,
            excluded=tuple(left_out),
            template=template,
            seen=words,
        )


def _check_one_size(station: Station, data: Path, sizes: Counter[tuple[int, int]]) -> None:
    """Refuse what the line would refuse. Raises DataError."""
    from calibration.errors import DataError
    from calibration.frame_sizes import in_words

    if station.camera.fixed_size and len(sizes) > 1:
        raise DataError(
            f"{data}: images of several sizes, such as {in_words(sizes)}: the line answers those with INVALID "
            "(bad_image), because camera.fixed_size is on; give images of one size, or set camera.fixed_size: false"
        )


def _tell_of(found: _Found) -> None:
    """On standard error: what is not learnt from."""
    for name, reason in found.unfit:
        print(f"inspectd: left out {name} ({reason.value})", file=sys.stderr)
    if found.repeated:
        print(f"inspectd: left out {found.repeated} images that repeat another one exactly", file=sys.stderr)


def _learn_template(
    files: Sequence[Path], data: Path, levels: Levels | None, progress: Callable[[str, int, int], None]
) -> tuple[PartTemplate, tuple[str, ...]]:
    """What the part looks like and how it lies, and the same in words. Raises DataError."""
    from calibration.errors import DataError
    from calibration.images import load_frame
    from calibration.part_scene import NoPartSeen
    from calibration.part_template import learn_part_template

    progress("learn the part", 0, 1)
    try:
        learnt = learn_part_template([partial(_in_8_bits, load_frame, path, levels) for path in files])
    except NoPartSeen as fault:
        raise DataError(
            f'{data}: locate.mode part cannot be learnt: {fault}. Set locate.mode: "off", which takes the whole frame, '
            "or show the whole part on an even background"
        ) from fault
    progress("learn the part", 1, 1)
    return learnt.template, learnt.words


def _in_8_bits(load: Callable[[Path], DeepImage], path: Path, levels: Levels | None) -> Image:
    return to_8_bits(load(path), levels)


def _what_to_check(reasons: set[Reason]) -> str:
    """Where to look for the cause of what these say."""
    if reasons == {Reason.BAD_IMAGE}:
        return "light, exposure and lens: they are of one grey, saturated or smaller than any part"
    return "the station's locate settings"


def read_excluded(data: Path, file: Path | None) -> frozenset[str]:
    """Names and paths of good parts to leave out: those in `file` and in the data folder's own list.

    Empty lines and those that begin with # are comments. Raises DataError for a file that cannot be read.
    """
    from calibration.errors import DataError

    found: set[str] = set()
    own = data / EXCLUDED
    for path in [*([own] if own.is_file() else []), *([file] if file else [])]:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no file: a pipe would be waited for")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a list of good parts to leave out: {error}") from error
        found |= {line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")}
    return frozenset(found)


def without_excluded(samples: Sequence[Sample], data: Path, excluded: frozenset[str]) -> tuple[list[Sample], list[str]]:
    """Samples that no entry names, and the names of the others. An entry is a file's name, or its path from anywhere.

    Raises DataError for an entry that names no good part: a list with a slip of the pen would leave the part in.
    """
    from calibration.errors import DataError

    left: list[Sample] = []
    out: list[str] = []
    used: set[str] = set()
    for sample in samples:
        ways = {sample.path.name, str(sample.path), str(sample.path.resolve())}
        if sample.path.is_relative_to(data):
            ways.add(sample.path.relative_to(data).as_posix())
        if ways & excluded:
            used |= ways & excluded
            out.append(sample.path.name)
        else:
            left.append(sample)
    if unknown := sorted(excluded - used):
        raise DataError(
            f"{data}: {unknown[0]!r} is to be left out, but no good part has this name or path"
            + (f", nor {len(unknown) - 1} more of the list" if unknown[1:] else "")
        )
    return left, out
