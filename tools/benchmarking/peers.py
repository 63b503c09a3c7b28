"""The product on labelled sets, and in the same run other methods: anomalib's PaDiM and PatchCore, a plain memory."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarking.machine import describe_machine
from benchmarking.peer_environment import answer_of, make_environment, one_thread
from benchmarking.plan import defaults_of, key_of, scored_sections, unchanged
from benchmarking.results import run_row
from benchmarking.steps import (
    TOOLS,
    Row,
    StepFailed,
    Tell,
    TookTooLong,
    follow,
    read_rows,
    shown_on,
    write_rows,
    write_text,
)
from calibration.dataset import Layout, read_dataset
from calibration.errors import DataError
from inspectd.config import load_station
from inspectd.errors import InspectdError, UsageError

PRODUCT, MEMORY, PADIM, PATCHCORE = "product", "memory", "padim", "patchcore"
MODELS = (PRODUCT, MEMORY, PADIM, PATCHCORE)
NAMES = {PRODUCT: "inspectd", MEMORY: "plain memory", PADIM: "PaDiM, ResNet18", PATCHCORE: "PatchCore, ResNet18"}
NEEDED = ("data", "model", "settings")
FAILED, NOT_FINISHED = "failed", "not_finished_s"
"""What a row has in place of figures: why it failed (it is not kept then), or after how many seconds it was ended."""
AUTO = "auto"
STATION = "object"
PRESET = "quick"
TIMING_S = 2.0
"""How long the product's own engine is timed for its row, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """How every method sees a set.

    size: side in pixels to which parts are squashed (the product: its station's canvas). parts: good parts to learn
    from at most, 0: all (the script: its own default). coreset: share of patches that PatchCore keeps. memory_script:
    None where it is not wanted. stations: the product's station by set, a name, a path, or AUTO. most_s: seconds after
    which a row is ended, None: never. again: also measure what is done, from the beginning.
    """

    size: int
    parts: int
    coreset: float
    seed: int
    weights: Path
    memory_script: Path | None
    stations: Mapping[str, str]
    most_s: float | None = None
    again: bool = False

    def of(self, model: str, name: str) -> dict[str, Any]:
        """What the figures of a model on a set depend on: a row with other ones is another row. Raises SettingsError.

        A station that is named counts with its sections; what AUTO makes of a set depends on the set alone.
        """
        if model == PRODUCT:
            station = self.stations[name]
            sections = {} if station == AUTO else scored_sections(load_station(station), PRESET)
            return {"station": station, "preset": PRESET, "parts": self.parts, "seed": self.seed, **sections}
        shared: dict[str, Any] = {"size": self.size, "parts": self.parts}
        if model == MEMORY:
            return shared
        shared |= {"seed": self.seed, "weights": self.weights.name}
        return shared | ({"coreset": self.coreset} if model == PATCHCORE else {})

    def defaults(self, model: str, name: str) -> Mapping[str, Any]:
        """Those of a station's sections: a row is not measured again for an option that it has at its default."""
        named = model == PRODUCT and self.stations[name] != AUTO
        return defaults_of(load_station(self.stations[name])) if named else {}


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


def stations_of(given: Sequence[str], sets: Mapping[str, Path]) -> dict[str, str]:
    """The product's station for each set. given: 'STATION' for all of them, 'SET=STATION' for one, or for a folder's.

    What names a set counts before what names the folder that it lies in, and that before what names none; STATION
    where nothing does. Raises UsageError for a name that is neither a set's nor such a folder's.
    """
    named: dict[str, str] = {}
    general = STATION
    for text in given:
        before, equals, after = text.partition("=")
        if not (after if equals else before):
            raise UsageError(f"--station {text}: give STATION, or SET=STATION")
        if equals:
            named[before] = after
        else:
            general = before
    known = {*sets, *(path.parent.name for path in sets.values())}
    if unknown := sorted(named.keys() - known):
        raise UsageError(
            f"--station {unknown[0]}={named[unknown[0]]}: no set of --data, and no folder of them, is named so"
        )
    return {name: named.get(name, named.get(path.parent.name, general)) for name, path in sets.items()}


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

    Returns the rows asked for. A row that takes longer than settings.most_s is kept as such, and not tried again with
    as little time; one that fails is returned with FAILED and not kept, and the others go on. work: folder for
    anomalib's environment, bundles and logs. Raises StorageError, UsageError, SettingsError.
    """
    _check_files(models, settings)
    rows = read_rows(out, NEEDED)
    asked = [(name, model, settings.of(model, name)) for name in sets for model in models]
    whole = bars.add_task("rows", total=len(asked))
    step = bars.add_task("", total=None)
    work.mkdir(parents=True, exist_ok=True)
    chosen = []
    for name, model, wanted in asked:
        bars.update(whole, description=f"{name}, {NAMES[model]}")
        known = _known(rows, (name, model, wanted), settings.defaults(model, name))
        if known is not None and not settings.again and _stays(known, settings.most_s):
            chosen.append(known)
        else:
            row = {"data": name, "model": model, "settings": wanted}
            row |= _measured(_Job(sets[name], settings, work, shown_on(bars, step)), model, wanted)
            if FAILED in row:
                bars.console.print(f"{name}, {NAMES[model]}: failed: {row[FAILED]}")
            else:
                rows = [*(one for one in rows if one is not known), row]
                write_rows(out, rows)
            chosen.append(row)
        bars.advance(whole)
    return chosen


def _check_files(models: Sequence[str], settings: PeerSettings) -> None:
    """Raise UsageError where a script or weights that the models need are not there."""
    if MEMORY in models and (settings.memory_script is None or not settings.memory_script.is_file()):
        raise UsageError(f"--memory-script {settings.memory_script}: no such file; or leave `memory` out of --model")
    if {PADIM, PATCHCORE} & set(models) and not settings.weights.is_file():
        raise UsageError(f"--weights {settings.weights}: no such file; ResNet18 to layer3, torchvision's names")


def peer_command(python: Path, model: str, data: Path, settings: PeerSettings, size: int) -> list[str]:
    """The worker's command line for one of anomalib's models; weights as they are drawn where the file is not there."""
    command = [str(python), str(TOOLS / "benchmarking" / "peer_worker.py"), "--data", str(data), "--model", model]
    command += ["--weights", str(settings.weights.resolve())] if settings.weights.is_file() else []
    command += ["--size", str(size), "--parts", str(settings.parts), "--coreset", str(settings.coreset)]
    return [*command, "--seed", str(settings.seed)]


def _known(rows: Sequence[Row], asked: tuple[str, str, Row], defaults: Mapping[str, Any]) -> Row | None:
    name, model, wanted = asked
    for row in rows:
        if (row["data"], row["model"]) == (name, model) and unchanged(row["settings"], wanted, defaults):
            return row
    return None


def _stays(row: Row, most_s: float | None) -> bool:
    """Whether the row is not measured again: it has figures, or there is no more time now than it was given."""
    given = row.get(NOT_FINISHED)
    return given is None or (most_s is not None and most_s <= given)


@dataclass(frozen=True, slots=True)
class _Job:
    """One set to measure: where it lies, how, where things are kept, and who is told."""

    data: Path
    settings: PeerSettings
    work: Path
    tell: Tell

    def log(self, model: str) -> Path:
        return self.work / f"{self.data.name}-{model}.log"


def _measured(job: _Job, model: str, wanted: Row) -> Row:
    """Figures, or a row that says why there are none."""
    about = {"machine": describe_machine()}
    try:
        if model == PRODUCT:
            return about | _measure_product(job, wanted)
        return about | (_measure_memory(job) if model == MEMORY else _measure_peer(job, model))
    except TookTooLong:
        return about | {NOT_FINISHED: job.settings.most_s}
    except (InspectdError, OSError) as error:
        return {FAILED: str(error)}


def _measure_peer(job: _Job, model: str) -> Row:
    job.tell("environment", 0, 1)
    python = make_environment(job.work / "venv", job.work / "venv.log")
    command = peer_command(python, model, job.data, job.settings, job.settings.size)
    return answer_of(command, job.log(model), job.tell, job.settings.most_s)


def _measure_product(job: _Job, wanted: Row) -> Row:
    """Calibrate the set's station and evaluate its engine, in a process of its own, as a row of `results` is.

    Nothing of another attempt with other settings is taken; what one with the same has finished is. Time spent in
    choosing a station (AUTO) is part of the calibration's.
    """
    folder = job.work / "product" / f"{job.data.name}-{key_of(wanted)}"
    if job.settings.again:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    station, survey_s = _station(job, wanted["station"], folder)
    asked = {
        "station": station,
        "data": str(job.data),
        "layout": Layout.MVTEC.value,
        "preset": PRESET,
        "precisions": [],
        "timing_s": TIMING_S,
        "out": str(folder),
        "parts": job.settings.parts,
        "seed": job.settings.seed,
    }
    write_text(folder / "job.json", json.dumps(asked, indent=1))
    most_s = job.settings.most_s
    left_s = None if most_s is None else max(1.0, most_s - (time.monotonic() - started_s))
    try:
        row = run_row(folder / "job.json", folder, job.tell, most_s=left_s, environment=one_thread())
    except TookTooLong:
        raise
    except StepFailed as error:
        raise StepFailed(f"{error}; see {folder / 'log.txt'}") from error
    own = next(one for one in row["engines"] if one["kept"])
    canvas = load_station(station).canvas
    shared = ("good", "defective", "image_auroc", "pixel_auroc", "false_rejects", "escapes", "asked_rate", "promised")
    return {
        **{name: row[name] for name in shared},
        "learnt": row["good_to_calibrate"],
        "fit_s": round(row["calibration_s"] + survey_s, 1),
        "resumed": row["resumed"],
        "ms_per_image": round(own["median_ms"], 2),
        "tail_shape": row["left_out"]["shape"],
        "highest_over_median": row["left_out"]["highest_over_median"],
        "canvas": f"{canvas.width_px}x{canvas.height_px}",
        "bundle": row["bundle"],
        "precision": row["precision"],
        "folder": str((folder / row["folder"]).relative_to(job.work)),
    }


def _station(job: _Job, station: str, folder: Path) -> tuple[str, float]:
    """What `row` takes for the station, and the seconds it took to choose one; AUTO's is written once."""
    if station != AUTO:
        return station, 0.0
    path, note = folder / "station.yaml", folder / "survey.json"
    if not note.is_file():
        started_s = time.monotonic()
        command = [sys.executable, "-m", "inspectd", "calibrate", "--data", str(job.data), "--survey-only", "--force"]
        command += ["--station-out", str(path)]
        follow(command, job.log("survey"), job.tell, environment=one_thread(), most_s=job.settings.most_s)
        write_text(note, json.dumps(time.monotonic() - started_s))
    return str(path), float(json.loads(note.read_text(encoding="utf-8")))


def _measure_memory(job: _Job) -> Row:
    """The script's line for a set, in the names of the other rows. Raises StepFailed where it says something else."""
    script, settings = job.settings.memory_script, job.settings
    assert script is not None  # noqa: S101 - checked before
    command = [sys.executable, str(script.resolve()), str(job.data), "--px", str(settings.size)]
    command += ["--parts", str(settings.parts)] if settings.parts else []
    job.tell("measuring", 0, 1)
    started_s = time.monotonic()
    said = answer_of(command, job.log(MEMORY), job.tell, settings.most_s)
    try:
        largest = said["largest cell"]
        return {
            **{name: said[name] for name in ("learnt", "good", "defective")},
            "image_auroc": largest["auroc"],
            "pixel_auroc": None,
            "fit_s": None,
            "ms_per_image": None,
            "false_rejects": largest.get("false"),
            "escapes": largest.get("escapes"),
            "highest_over_median": largest.get("highest over median"),
            "whole_s": round(time.monotonic() - started_s, 1),
            "said": said,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise StepFailed(f"{script}: its line of JSON lacks {error}; see {job.log(MEMORY)}") from error
