"""Opening a bundle: every hash is checked before any file of it is parsed. Nothing here writes."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest, ThresholdSet
from engines.errors import BundleError, one_line
from engines.pictures import Levels
from engines.settings import CanvasSettings, ModelSettings, RegionSettings

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILES = 1000
HASH_DIGITS = 16
ACTIVE_NAME = "active"
# Settings of a model that only training reads: another value does not change what the bundle computes.
INSTANT = "instant"
"""The preset whose bundles have the memory alone."""
TRAINING_ONLY = {"quick", "full", "weights_folder"}
HASH_NAME = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    hash: str
    manifest: Manifest

    @property
    def station(self) -> str:
        """The station that it was made for."""
        return self.manifest.station

    @property
    def thresholds(self) -> ThresholdSet:
        """The limits on the scores."""
        return self.manifest.thresholds

    @property
    def regions(self) -> tuple[RegionSettings, ...]:
        """The regions, in the order of the engine's region scores."""
        return self.manifest.settings.regions

    @property
    def short_hash(self) -> str:
        """The first digits of the hash: the folder's name, and what people see."""
        return self.hash[:HASH_DIGITS]

    def path(self, name: str) -> Path:
        """Where a file of the manifest lies. Raises BundleError for a name that the manifest does not list."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: has no file {name}; calibrate again with this version")
        return self.folder / name


def open_bundle(folder: Path) -> Bundle:
    """Verify and read the bundle in any folder; reads every byte of it. Raises BundleError."""
    folder = Path(folder).resolve()
    raw = _read_manifest(folder)
    digest = hashlib.sha256(raw).hexdigest()
    if HASH_NAME.fullmatch(folder.name) and folder.name != digest[:HASH_DIGITS]:
        raise BundleError(f"{folder}: {MANIFEST_NAME} was changed (hash {digest[:HASH_DIGITS]}); {_REMEDY}")
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(step) for step in fault["loc"])
        what = fault["msg"].removeprefix("Value error, ")
        raise BundleError(
            f"{folder / MANIFEST_NAME}: {one_line(f'{where}: {what}' if where else what)}; "
            "made by another version? calibrate again"
        ) from error
    _verify_files(folder, manifest.files)
    return Bundle(folder=folder, hash=digest, manifest=manifest)


def resolve_bundle(path: Path) -> Path:
    """The bundle folder that `path` means: itself, its active bundle, or its only one, directly or one station below.

    Raises BundleError where there is none or where it could mean several.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError(f"{path}: no such folder; give a bundle, or the folder that calibrate --out wrote")
    if (path / MANIFEST_NAME).is_file():
        return path
    found = _bundles_in(path)
    if not found:
        found = [bundle for station in _folders(path) for bundle in _bundles_in(station)]
    if not found:
        raise BundleError(f"{path}: holds no bundle; run `inspectd calibrate` first")
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in found[:4])
        raise BundleError(f"{path}: holds {len(found)} bundles ({names}{', ...' if len(found) > 4 else ''}); name one")
    return found[0]


def check_settings(
    bundle: Bundle,
    canvas: CanvasSettings,
    regions: tuple[RegionSettings, ...],
    model: ModelSettings,
    locate: Mapping[str, object],
    *,
    levels: Levels | None = None,
) -> None:
    """Raise BundleError, naming the first differing setting, where the bundle was made for other settings.

    locate: the station's locate settings as JSON-ready values (`model_dump(mode="json")`). A bundle of preset `instant`
    has the memory alone, whatever the station's settings train. levels: as the station has them, None: any.
    """
    made_for = bundle.manifest.settings
    if bundle.manifest.preset == INSTANT:
        model = model.untrained
    pairs: list[tuple[str, Any, Any]] = [
        ("canvas", made_for.canvas.model_dump(mode="json"), canvas.model_dump(mode="json")),
        (
            "regions",
            [r.model_dump(mode="json") for r in made_for.regions],
            [r.model_dump(mode="json") for r in regions],
        ),
        (
            "model",
            made_for.model.model_dump(mode="json", exclude=TRAINING_ONLY),
            model.model_dump(mode="json", exclude=TRAINING_ONLY),
        ),
        ("locate", made_for.locate, dict(locate)),
    ]
    if levels is not None:
        theirs_of = made_for.levels
        pairs.append(("levels", theirs_of and theirs_of.model_dump(), levels.model_dump()))
    for name, theirs, ours in pairs:
        difference = _first_difference(name, theirs, ours)
        if difference:
            raise BundleError(f"bundle {bundle.short_hash} was made for other settings: {difference}; calibrate again")


_REMEDY = "a bundle never changes: roll back (`inspectd rollback`), restore the file, or calibrate again"


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    if path.is_symlink():
        raise BundleError(f"{path}: is a symbolic link; {_REMEDY}")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{path}: is no file; {_REMEDY}")
        if found.st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, so no manifest; {_REMEDY}")
        return path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder}: no bundle here ({MANIFEST_NAME} is missing); run `inspectd calibrate`") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _verify_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Exactly the listed files lie in the folder, as regular files of the listed size and hash."""
    present: set[str] = set()
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise BundleError(f"{path}: is a symbolic link; {_REMEDY}")
        if not path.is_dir():
            present.add(path.relative_to(folder).as_posix())
        if len(present) > MAX_FILES:
            raise BundleError(f"{folder}: more than {MAX_FILES} files; {_REMEDY}")
    extra = sorted(present - set(files) - {MANIFEST_NAME})
    if extra:
        raise BundleError(f"{folder / extra[0]}: does not belong to the bundle; remove it")
    for name, entry in sorted(files.items()):
        _verify_file(folder / name, entry)


def _verify_file(path: Path, entry: FileEntry) -> None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without end
            raise BundleError(f"{path}: is no file; {_REMEDY}")
        if found.st_size != entry.size:
            raise BundleError(f"{path}: {found.st_size} bytes, the manifest says {entry.size}; {_REMEDY}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing; {_REMEDY}") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if digest != entry.sha256:
        raise BundleError(f"{path}: was changed (its hash differs from the manifest's); {_REMEDY}")


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _bundles_in(folder: Path) -> list[Path]:
    """The active bundle alone where there is one, else every bundle directly in the folder."""
    active = folder / ACTIVE_NAME
    if (active / MANIFEST_NAME).is_file():
        return [active.resolve()]
    return [entry for entry in _folders(folder) if (entry / MANIFEST_NAME).is_file()]


def _first_difference(where: str, theirs: object, ours: object) -> str:
    """'a.b: bundle has x, station has y' for the first leaf that differs, or nothing."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in sorted({*theirs, *ours}):
            difference = _first_difference(f"{where}.{key}", theirs.get(key), ours.get(key))
            if difference:
                return difference
        return ""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (left, right) in enumerate(zip(theirs, ours, strict=True)):
            difference = _first_difference(f"{where}.{index}", left, right)
            if difference:
                return difference
        return ""
    return "" if theirs == ours else f"{where}: bundle has {_short(theirs)}, station has {_short(ours)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
