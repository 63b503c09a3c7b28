"""Footage on disk -> parts in order: a folder of images, a labelled set, a video, or what the daemon recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from engines.labels import label_of
from engines.leftovers import left_behind
from engines.pictures import SUFFIXES
from inspectd.camera_sections import VideoCameraSettings
from inspectd.cameras.folder import list_images, natural_key, read_image
from inspectd.cameras.video import VideoCamera
from inspectd.errors import CameraError, EndOfFootage
from inspectd.messages import DeepImage
from inspectd.records.database import DATABASE_NAME
from inspectd.records.reading import RecordReader

METADATA_NAME = "metadata.jsonl"
"""What `inspectd record` writes beside its images."""
SPLITS = frozenset({"train", "test"})
NO_PARTS = frozenset({"ground_truth"})
"""Folders of a labelled set whose pictures are masks, not parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootagePart:
    """One part of the footage. image: (H, W, 3) RGB, uint8 or uint16, or None where `fault` says why it cannot be read.

    part_id: as the footage knows it, else made from the file's name. source: where the camera had it from when it was
    recorded, else the file. file: the file, or file and frame number. label: the truth where known. seq: as recorded.
    """

    part_id: str
    source: str
    file: str
    image: DeepImage | None
    fault: str = ""
    label: str = ""
    seq: int | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image file, and what stands about it."""

    path: Path
    part_id: str
    label: str = ""
    source: str = ""
    seq: int | None = None
    named: bool = False


class Footage:
    """The parts of a folder, video or records, in a fixed order; may be read more than once.

    about: what it is, for people. parts: how many, None where only reading tells. left_out: recorded parts of which no
    image was kept. The constructor raises CameraError or StorageError where there is nothing that can be read.
    """

    def __init__(self, path: Path) -> None:
        path = path.parent if path.name == DATABASE_NAME else path
        self.path = path
        self.left_out = 0
        self._entries: list[_Entry] | None = None
        if not path.exists():
            raise CameraError(f"{path}: no such footage; give a folder of images, a video or a records folder")
        if not path.is_dir():
            self.about = "video"
            VideoCamera(VideoCameraSettings(kind="video", path=path)).close()
        elif (path / DATABASE_NAME).is_file():
            self.about = "records"
            self._entries, self.left_out = _recorded(path)
        elif (path / METADATA_NAME).is_file():
            self.about = "recorded parts"
            self._entries = _saved(path)
        elif any(entry.suffix.lower() in SUFFIXES for entry in _files(path)):
            self.about = "folder of images"
            files = list_images(path)
            stems = Counter(file.stem for file in files)  # 000.bmp and 000.png are two parts
            self._entries = [_Entry(file, file.stem if stems[file.stem] == 1 else file.name) for file in files]
        else:
            self.about = "labelled set"
            self._entries = _labelled(path)

    @property
    def parts(self) -> int | None:
        """How many parts, where that is known beforehand."""
        return None if self._entries is None else len(self._entries)

    def __iter__(self) -> Iterator[FootagePart]:
        """Read and decode part after part; blocks for the disk. Raises CameraError for a video that breaks off."""
        if self._entries is None:
            return _frames(self.path)
        return (_read(entry) for entry in self._entries)


def _files(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_file() and not left_behind(entry.name)]
    except OSError as error:
        raise CameraError(f"{folder}: cannot be read: {error.strerror}") from error


def _read(entry: _Entry) -> FootagePart:
    """The part, or why its image cannot be read: it becomes INVALID, as in the daemon, and the replay goes on."""
    image, fault = None, ""
    try:
        image = read_image(entry.path)
    except CameraError as error:
        fault = str(error)
    return FootagePart(
        part_id=entry.part_id,
        source=entry.source or str(entry.path),
        file=str(entry.path),
        image=image,
        fault=fault,
        label=entry.label,
        seq=entry.seq,
        named=entry.named,
    )


def _frames(path: Path) -> Iterator[FootagePart]:
    with closing(VideoCamera(VideoCameraSettings(kind="video", path=path))) as camera:
        while True:
            try:
                shot = camera.grab(0.0)
            except EndOfFootage:
                return
            name = f"{path.stem}#{shot.source.rsplit('#', 1)[1]}"
            yield FootagePart(part_id=name, source=shot.source, file=shot.source, image=shot.image)


def _recorded(folder: Path) -> tuple[list[_Entry], int]:
    """What the daemon kept of its parts, by rising sequence number, and how many parts have no image."""
    entries, without = [], 0
    with RecordReader(folder) as reader:
        for part in reader.all():
            if part.image is None:
                without += 1
                continue
            verdict = part.verdict
            entries.append(
                _Entry(folder / part.image, verdict.part_id, verdict.label, part.source, verdict.seq, named=True)
            )
    if not entries:
        raise CameraError(
            f"{folder}: holds {without} records and no image; set records.passed_image_every: 1 to keep every image"
        )
    return entries, without


def _saved(folder: Path) -> list[_Entry]:
    """What `inspectd record` saved, in the order of its metadata."""
    path = folder / METADATA_NAME
    entries = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CameraError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            about = json.loads(line)
            file, part_id = str(about["file"]), str(about["part_id"])
            source, label = str(about.get("source", "")), label_of(str(about.get("label", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CameraError(f"{path}, line {number}: is not what `inspectd record` writes") from error
        if Path(file).name != file:
            raise CameraError(f"{path}, line {number}: {file} is not a file name")
        entries.append(_Entry(folder / file, part_id, label, source, named=True))
    if not entries:
        raise CameraError(f"{path}: names no image")
    return entries


def _labelled(root: Path) -> list[_Entry]:
    """Images below `root` in order of their paths; in MVTec layout a part's label is its folder, and masks stay out."""
    found = []
    for path in root.rglob("*"):
        inner = path.relative_to(root)
        no_part = any(left_behind(step) or step.lower() in NO_PARTS for step in inner.parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not no_part:
            found.append(inner)
    if not found:
        raise CameraError(f"{root}: holds no image (png, jpg, bmp, tif or webp), nor do its folders")
    found.sort(key=lambda inner: (inner.parent.parts, natural_key(inner)))
    stems = Counter(inner.with_suffix("") for inner in found)
    names = [inner if stems[inner.with_suffix("")] > 1 else inner.with_suffix("") for inner in found]
    return [_Entry(root / inner, name.as_posix(), _label(inner)) for inner, name in zip(found, names, strict=True)]


def _label(inner: Path) -> str:
    """`test/scratch/0001.png` -> scratch, `test/OK/0001.png` -> good; nothing in other layouts."""
    steps = inner.parts
    return label_of(steps[-2]) if len(steps) >= 3 and steps[-3].lower() in SPLITS else ""
