"""The plan cache: TensorRT engines that `inspectd build` made for this machine's GPU; the daemon only reads it.

`engines.compilation.gpu` writes a draft, parity is checked on the draft, and an accepted draft becomes an entry.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, FiniteFloat, ValidationError

from engines.artifact import Bundle
from engines.artifact.writer import sync
from engines.errors import EngineUnavailable
from engines.gpu import Gpu, Package, TensorRt
from engines.settings import MOST_PARTS, CanvasSettings, PatchGmsdSettings, RegionSettings, Settings

PLAN_NAME: Final = "plan.engine"
STAGE_NAME: Final = "stage.json"
ENTRY_NAME: Final = "entry.json"
KEY_DIGITS: Final = 16
MAX_PLAN_BYTES: Final = 2 * 2**30
MAX_JSON_BYTES: Final = 2**20
DRAFT_PREFIX: Final = ".draft-"
OLD_PREFIX: Final = ".old-"
DRAFT_AGE_S: Final = 86_400
"""After which a draft can only be what a killed build left."""

PlanPrecision = Literal["f32", "f16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_REMEDY: Final = "build it again with `inspectd build`"


class PatchStage(Settings):
    """What the Patch_GMSD kernel needs beside the plan's outputs (stage.json), for graphs that were cut before it.

    Region score r: feature_scores[r] + w_r (combine add) or * w_r (multiply), w_r = patch_factor[r] * lambdas[r] *
    Patch_GMSD_r; the part score is the highest.
    """

    combine: Literal["add", "multiply"] = Field(description="add: score calibrated; multiply: score paper (Eq. 11)")
    canvas: CanvasSettings
    regions: tuple[RegionSettings, ...] = Field(min_length=1, description="their patches, in the order of the scores")
    patch_gmsd: PatchGmsdSettings
    lambdas: tuple[FiniteFloat, ...] = Field(description="lambda_r of Eq. 12")
    patch_factor: tuple[FiniteFloat, ...] = Field(description="what lambda_r * Patch_GMSD_r is multiplied by; paper: 1")


class PlanKey(Settings):
    """What a plan depends on: another value of any of these asks for another plan."""

    graph_sha256: Sha256 = Field(description="of the bundle's graph.onnx")
    gpu: str = Field(min_length=1, max_length=200, description="the device's name")
    sm: int = Field(ge=50, le=999, description="compute capability, 86 for 8.6")
    package: Package
    version: str = Field(min_length=1, max_length=100, description="of the package: a plan is bound to it")
    precision: PlanPrecision
    batch: int = Field(1, ge=1, le=MOST_PARTS, description="part images in one inference")

    @property
    def digest(self) -> str:
        """The entry's folder name."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def __str__(self) -> str:
        """For people."""
        parts = f" of {self.batch} parts" if self.batch > 1 else ""
        return f"{self.precision}{parts} for {self.gpu} (SM {self.sm}), {self.package} {self.version}"


class Reproduced(Settings):
    """How well the plan gave the golden images their scores, as a share of max(|expected|, limit)."""

    images: int = Field(ge=1)
    worst_deviation: Annotated[float, Field(ge=0)]


class PlanFile(Settings):
    """One file of an entry."""

    sha256: Sha256
    size: int = Field(ge=1, le=MAX_PLAN_BYTES, description="bytes")


class PlanEntry(Settings):
    """`entry.json`: what the plan was built for, that it kept parity, and the hashes of its files."""

    format_version: Literal[1] = 1
    key: PlanKey
    files: dict[Literal["plan.engine", "stage.json"], PlanFile]
    reproduced: Reproduced
    created: AwareDatetime


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that may run: its bytes as they were built, and the stage that follows it, None without a decoder."""

    key: PlanKey
    serialised: bytes
    stage: PatchStage | None


class Draft:
    """A plan that was built and not yet checked; nothing but the check may run it. Made by `PlanCache.draft`."""

    def __init__(self, cache: PlanCache, folder: Path, plan: Plan) -> None:
        self._cache, self._folder = cache, folder
        self.plan = plan

    def accept(self, reproduced: Reproduced) -> Path:
        """Make it the entry of its key, in one step, in place of what was there; returns the folder.

        Then drops the oldest entries over the cache's bound. Blocks until it is on disk. Raises OSError.
        """
        return self._cache._publish(self._folder, self.plan, reproduced)


class PlanCache:
    """Entries below `root`, one folder a key; `most_bytes` bounds them together, the newest is always kept."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        self._root, self._most_bytes = Path(root), most_bytes

    def has(self, key: PlanKey) -> bool:
        """Whether there is an entry of that key, be it damaged."""
        return (self._root / key.digest).is_dir()

    def find(self, key: PlanKey) -> Plan:
        """The accepted plan of that key; reads and verifies every byte.

        Raises EngineUnavailable, one line, where there is none, or where it is damaged.
        """
        folder = self._root / key.digest
        try:
            entry = PlanEntry.model_validate_json(_read(folder / ENTRY_NAME, MAX_JSON_BYTES))
            if entry.key != key:
                raise EngineUnavailable(f"{folder}: is the plan {entry.key}, not {key}; {_REMEDY}")
            found = {name: _verified(folder / name, file) for name, file in entry.files.items()}
            stage = PatchStage.model_validate_json(found[STAGE_NAME]) if STAGE_NAME in found else None
            return Plan(key, found[PLAN_NAME], stage)
        except FileNotFoundError as error:
            if not folder.is_dir():
                raise EngineUnavailable(f"{self._root}: holds no plan {key}; {_REMEDY}") from None
            raise EngineUnavailable(f"{error.filename}: is missing; {_REMEDY}") from None
        except OSError as error:
            raise EngineUnavailable(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
        except (ValidationError, KeyError) as error:
            raise EngineUnavailable(f"{folder}: is damaged or of another version; {_REMEDY}") from error

    @contextmanager
    def draft(self, key: PlanKey, serialised: bytes, stage: PatchStage | None) -> Iterator[Draft]:
        """A draft of that plan on disk; leaving the context without `accept` discards it. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=self._root))
        try:
            (folder / PLAN_NAME).write_bytes(serialised)
            if stage is not None:
                (folder / STAGE_NAME).write_text(stage.model_dump_json(indent=1) + "\n", encoding="utf-8")
            yield Draft(self, folder, Plan(key, serialised, stage))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def timing(self, key: PlanKey) -> bytes:
        """What the builder measured on this GPU before, empty where it never ran: it shortens the next build."""
        try:
            return _read(self._timing_path(key), MAX_PLAN_BYTES)
        except OSError:
            return b""

    def keep_timing(self, key: PlanKey, measured: bytes) -> None:
        """Keep the builder's measurements, atomically. Raises OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._timing_path(key)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(measured)
        sync(fresh)
        fresh.replace(path)

    def _timing_path(self, key: PlanKey) -> Path:
        text = json.dumps([key.gpu, key.sm, key.package, key.version])
        return self._root / f"timing-{hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]}.cache"

    def _publish(self, folder: Path, plan: Plan, reproduced: Reproduced) -> Path:
        names = [PLAN_NAME] if plan.stage is None else [PLAN_NAME, STAGE_NAME]
        files = {name: PlanFile(sha256=_digest(folder / name), size=(folder / name).stat().st_size) for name in names}
        entry = PlanEntry.model_validate(
            {"key": plan.key, "files": files, "reproduced": reproduced, "created": datetime.now(UTC)}
        )
        (folder / ENTRY_NAME).write_text(entry.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for path in (*folder.iterdir(), folder):
            sync(path)
        folder.chmod(0o755)
        target = self._root / plan.key.digest
        with _locked(self._root):
            old = self._root / f"{OLD_PREFIX}{target.name}-{os.getpid()}"
            if target.exists():
                target.rename(old)
            folder.rename(target)
            sync(self._root)
            shutil.rmtree(old, ignore_errors=True)
            self._trim(target)
        return target

    def _trim(self, newest: Path) -> None:
        """Drop the oldest entries until the rest, with the newest, fits the bound; and what a killed build left."""
        entries = []
        for folder in self._root.iterdir():
            if not folder.is_dir() or folder == newest:
                continue
            age_s = time.time() - folder.stat().st_mtime
            if folder.name.startswith(OLD_PREFIX) or (folder.name.startswith(DRAFT_PREFIX) and age_s > DRAFT_AGE_S):
                shutil.rmtree(folder, ignore_errors=True)
            elif not folder.name.startswith("."):
                entries.append((folder.stat().st_mtime_ns, folder))
        total = _size(newest)
        for _, folder in sorted(entries, reverse=True):
            total += _size(folder)
            if total > self._most_bytes:
                shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path, most_bytes: int) -> bytes:
    """A regular file's bytes: a pipe would be waited for without end. Raises OSError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
        raise OSError(0, "no regular file, or too large", str(path))
    return path.read_bytes()


def _verified(path: Path, file: PlanFile) -> bytes:
    content = _read(path, MAX_PLAN_BYTES)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise EngineUnavailable(f"{path}: was changed (its hash differs from the entry's); {_REMEDY}")
    return content


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def plan_key(bundle: Bundle, gpu: Gpu, tensorrt: TensorRt, precision: PlanPrecision, *, batch: int = 1) -> PlanKey:
    """The key of a bundle's plan on this machine. Raises EngineUnavailable for a bundle without a graph."""
    name = bundle.manifest.engine.files.get("graph")
    if name is None:
        raise EngineUnavailable(f"{bundle.folder}: the bundle has no graph to build from: calibrate again")
    return PlanKey(
        graph_sha256=bundle.manifest.files[name].sha256,
        gpu=gpu.name,
        sm=gpu.sm,
        package=tensorrt.package,
        version=tensorrt.version,
        precision=precision,
        batch=batch,
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One process at a time changes the entries; blocks."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
