"""Other methods on the same labelled sets: anomalib's PaDiM and PatchCore, and a script of a plain memory of patches.

anomalib lives in a virtual environment of its own, which is made here; it never touches the project's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.progress import Progress, TaskID

from benchmarking.machine import markdown_table
from benchmarking.steps import TOOLS, Row, StepFailed, last_line, owned_process, read_rows, write_rows
from calibration.dataset import Layout, read_dataset
from calibration.errors import DataError
from inspectd.errors import StorageError, UsageError

ANOMALIB = "anomalib==2.7.*"
MEMORY, PADIM, PATCHCORE = "memory", "padim", "patchcore"
MODELS = (MEMORY, PADIM, PATCHCORE)
NAMES = {MEMORY: "memory script", PADIM: "PaDiM, ResNet18", PATCHCORE: "PatchCore, ResNet18"}
NEEDED = ("data", "model", "settings")
MARKER = "made-by-inspectd.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """How every method sees a set.

    size: side in pixels to which parts are squashed. parts: good parts to learn from at most, 0: all (the script: its
    own default). coreset: share of patches that PatchCore keeps. memory_script: None where it is not wanted.
    """

    size: int
    parts: int
    coreset: float
    seed: int
    weights: Path
    memory_script: Path | None

    def of(self, model: str) -> dict[str, Any]:
        """What the figures of a model depend on: a row with other ones is another row."""
        shared: dict[str, Any] = {"size": self.size, "parts": self.parts}
        if model == MEMORY:
            return shared
        shared |= {"seed": self.seed, "weights": self.weights.name}
        return shared | ({"coreset": self.coreset} if model == PATCHCORE else {})


def sets_of(folders: Sequence[Path]) -> dict[str, Path]:
    """The labelled sets that the folders are, or hold, by name. Raises DataError where one is none, or names repeat."""
    found: dict[str, Path] = {}
    for folder in folders:
        inner = sorted(child for child in folder.iterdir() if (child / "train").is_dir()) if folder.is_dir() else []
        for path in [folder] if (folder / "train").is_dir() or not inner else inner:
            data = read_dataset(path)
            if data.layout is not Layout.MVTEC or not data.labelled:
                raise DataError(f"{path}: is no labelled set in MVTec layout (train/good, test/good, test/<defect>)")
            name = path.resolve().name
            if found.setdefault(name, path.resolve()) != path.resolve():
                raise DataError(f"{path}: another set is named {name}, too; rows go by that name")
    return found


def measure_peers(
    sets: Mapping[str, Path],
    models: Sequence[str],
    settings: PeerSettings,
    *,
    out: Path,
    work: Path,
    bars: Progress,
) -> list[Row]:
    """Measure what `out` has no row of, one set and model after the other, and add its row there. Blocks for minutes.

    Returns the rows asked for. work: folder for anomalib's environment and logs. Raises StepFailed, StorageError,
    UsageError.
    """
    _check_files(models, settings)
    rows = read_rows(out, NEEDED)
    asked = [(name, model) for name in sets for model in models]
    whole = bars.add_task("rows", total=len(asked))
    step = bars.add_task("", total=None)
    work.mkdir(parents=True, exist_ok=True)
    chosen = []
    for name, model in asked:
        bars.update(whole, description=f"{name}, {NAMES[model]}")
        row = _done(rows, name, model, settings)
        if row is None:
            row = {"data": name, "model": model, "settings": settings.of(model)}
            row |= _measure(sets[name], model, settings, work, (bars, step))
            rows.append(row)
            write_rows(out, rows)
        chosen.append(row)
        bars.advance(whole)
    return chosen


def peer_tables(rows: Sequence[Row]) -> str:
    """Markdown: image AUROC of each set by method, with means over the sets that all methods have, then all figures."""
    models = [model for model in MODELS if any(row["model"] == model for row in rows)]
    by_set: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_set.setdefault(row["data"], {})[row["model"]] = row
    body = [
        (name, *(_number(found[model]["image_auroc"], 4) if model in found else "-" for model in models))
        for name, found in by_set.items()
    ]
    whole = [found for found in by_set.values() if all(model in found for model in models)]
    if len(whole) > 1:
        means = (_number(_mean([found[model]["image_auroc"] for found in whole]), 4) for model in models)
        body.append((f"**mean of {len(whole)} sets**", *means))
    compared = markdown_table(("image AUROC", *(NAMES[model] for model in models)), body)
    head = ("set", "method", "learnt from", "good", "defective", "image AUROC", "pixel AUROC", "fit s", "ms a part")
    details = [
        (
            row["data"],
            NAMES[row["model"]],
            *(str(row[count]) for count in ("learnt", "good", "defective")),
            *(_number(row[area], 4) for area in ("image_auroc", "pixel_auroc")),
            _number(row["fit_s"], 1),
            _number(row["ms_per_image"], 1),
        )
        for row in rows
    ]
    return f"{compared}\n\n{markdown_table(head, details)}\n\n{_explained(rows)}"


def _explained(rows: Sequence[Row]) -> str:
    versions = sorted({row["versions"] for row in rows if row.get("versions")})
    sizes = sorted({row["settings"]["size"] for row in rows})
    return (
        f"Parts squashed to {', '.join(f'{size}x{size}' for size in sizes)}; one thread. "
        f"{'; '.join(versions) or 'No method of anomalib'}. Fit: reading the good parts, features, and what is learnt "
        "of them. ms a part: from the prepared image on. The memory script tells neither of the two."
    )


def _check_files(models: Sequence[str], settings: PeerSettings) -> None:
    if MEMORY in models and (settings.memory_script is None or not settings.memory_script.is_file()):
        raise UsageError(f"--memory-script {settings.memory_script}: no such file; or leave `memory` out of --model")
    if {PADIM, PATCHCORE} & set(models) and not settings.weights.is_file():
        raise UsageError(f"--weights {settings.weights}: no such file; ResNet18 to layer3, torchvision's names")


def _done(rows: Sequence[Row], name: str, model: str, settings: PeerSettings) -> Row | None:
    wanted = (name, model, settings.of(model))
    return next((row for row in rows if (row["data"], row["model"], row["settings"]) == wanted), None)


def _measure(
    data: Path, model: str, settings: PeerSettings, work: Path, shown: tuple[Progress, TaskID]
) -> dict[str, Any]:
    log = work / f"{data.name}-{model}.log"
    if model == MEMORY:
        shown[0].update(shown[1], description="  measuring", completed=0, total=None)
        return _measure_memory(data, settings, log)
    shown[0].update(shown[1], description="  environment", completed=0, total=None)
    python = make_environment(work / "venv", work / "venv.log")
    command = [str(python), str(TOOLS / "benchmarking" / "peer_worker.py"), "--data", str(data), "--model", model]
    command += ["--weights", str(settings.weights.resolve()), "--size", str(settings.size)]
    command += ["--parts", str(settings.parts), "--coreset", str(settings.coreset), "--seed", str(settings.seed)]
    return _last_object(command, log, shown)


def _measure_memory(data: Path, settings: PeerSettings, log: Path) -> dict[str, Any]:
    """The script's line for a set, in the names of the other rows. Raises StepFailed where it says something else."""
    assert settings.memory_script is not None  # noqa: S101 - checked before
    command = [sys.executable, str(settings.memory_script.resolve()), str(data), "--px", str(settings.size)]
    command += ["--parts", str(settings.parts)] if settings.parts else []
    started_s = time.monotonic()
    said = _last_object(command, log, None)
    try:
        return {
            **{name: said[name] for name in ("learnt", "good", "defective")},
            "image_auroc": said["largest cell"]["auroc"],
            "pixel_auroc": None,
            "fit_s": None,
            "ms_per_image": None,
            "whole_s": round(time.monotonic() - started_s, 1),
            "said": said,
        }
    except (KeyError, TypeError) as error:
        raise StepFailed(f"{settings.memory_script}: its line of JSON lacks {error}; see {log}") from error


def make_environment(folder: Path, log: Path) -> Path:
    """The Python of a virtual environment with anomalib; made once, from the package index. Blocks for a minute.

    The project's own packages (torch, OpenCV, ...) are seen from there, and only what they lack, or have in a version
    that does not fit, is installed into `folder`. Raises StepFailed with pip's last line, StorageError.
    """
    python = folder / "bin" / "python"
    made_for = {"anomalib": ANOMALIB, "python": sys.version, "torch": importlib.metadata.version("torch")}
    marker = folder / MARKER
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_for:
        return python
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise StorageError(f"{folder}: is no virtual environment; name another --work")
    try:
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        inner = next((folder / "lib").glob("python*")) / "site-packages"
        inner.joinpath("inspectd_project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror or error}") from error
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", ANOMALIB]
    with log.open("w", encoding="utf-8") as said:
        done = subprocess.run(command, stdout=said, stderr=said, check=False)  # noqa: S603
    if done.returncode != 0:
        raise StepFailed(f"pip install {ANOMALIB}: {last_line(log)}; see {log}")
    marker.write_text(json.dumps(made_for), encoding="utf-8")
    return python


def _last_object(command: Sequence[str], log: Path, shown: tuple[Progress, TaskID] | None) -> dict[str, Any]:
    """Run a program; its lists [what, done, total] are progress, its last object is the answer. Raises StepFailed."""
    found: dict[str, Any] | None = None
    with (
        log.open("w", encoding="utf-8") as errors,
        owned_process(command, errors, _environment(), TOOLS.parent) as process,
    ):
        for text in process.stdout or ():
            try:
                line = json.loads(text)
            except ValueError:  # a library that prints
                errors.write(text)
                continue
            if isinstance(line, dict):
                found = line
            elif shown is not None and isinstance(line, list) and len(line) == 3:
                what, done, total = line
                shown[0].update(shown[1], description=f"  {what}", completed=done, total=total)
        code = process.wait()
    if code != 0 or found is None:
        raise StepFailed(f"{last_line(log) or f'{command[1]} ended with code {code}'}; see {log}")
    return found


def _environment() -> dict[str, str]:
    """That of a program with this checkout's modules and one thread, which fetches nothing."""
    limits = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **limits, "PYTHONPATH": str(TOOLS.parent)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
