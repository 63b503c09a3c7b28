"""One row of a plan, in a process of its own: calibrate, evaluate, compare precisions, draw. Started by results.py."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarking.drawn import drawn
from benchmarking.left_out import left_out_figures
from benchmarking.machine import describe_machine
from benchmarking.pictures import draw_pictures
from benchmarking.precisions import compare_precisions
from benchmarking.steps import Row, write_text
from benchmarking.watched import WatchedRuntime
from calibration.dataset import Sample, read_dataset
from calibration.evaluate import Evaluation, evaluate
from engines.artifact import Bundle, open_bundle
from engines.golden import verify
from engines.runtimes import load_runtime
from engines.settings import Settings
from inspectd.commands.calibrate import calibrate_station
from inspectd.commands.evaluate import labelled, preparer
from inspectd.commands.good_parts import read_good_parts
from inspectd.config import Station, load_station
from inspectd.errors import StorageError
from inspectd.loading import part_template

FIGURES = "figures.json"
MADE = "calibrated.json"
PICTURES = "pictures"
TELL_EVERY_S = 0.2


class RowJob(Settings):
    """What is asked of the process: a station's file on a data folder; everything is kept below `out`.

    parts: good parts to learn from at most, drawn with `seed`; 0: all.
    """

    station: str
    data: str
    layout: str
    preset: Literal["quick", "full"]
    precisions: tuple[str, ...]
    timing_s: float
    out: str
    parts: int = 0
    seed: int = 0


class Teller:
    """Progress as lines of JSON on standard output, a few a second: who started the process draws the bar."""

    def __init__(self) -> None:
        self._what, self._last_s = "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell of a step: what is being done, steps done, steps in all."""
        now_s = time.monotonic()
        if what == self._what and done < total and now_s - self._last_s < TELL_EVERY_S:
            return
        self._what, self._last_s = what, now_s
        sys.stdout.write(json.dumps([what, done, total]) + "\n")
        sys.stdout.flush()


def measure_row(job_file: Path) -> None:
    """Measure what the job file asks for; write FIGURES and PICTURES below its folder; blocks for minutes.

    A bundle that an earlier attempt made is not made again, and an unfinished training resumes. Raises what calibrate
    and evaluate raise, in one line each.
    """
    job = RowJob.model_validate_json(job_file.read_text(encoding="utf-8"))
    out, data, tell = Path(job.out), Path(job.data), Teller()
    station = load_station(job.station)
    samples = labelled(data).labelled
    _check_layout(data, job.layout)
    bundle, made = _calibrated(job, station, tell)
    row: Row = {**made, **_about(bundle), "machine": describe_machine()}
    evaluation = _examined(bundle, station, samples, out / PICTURES, tell)
    row |= evaluation.to_json()
    with tempfile.TemporaryDirectory(dir=out, prefix=".engines-") as folder:
        row["engines"] = compare_precisions(
            bundle,
            samples,
            preparer(bundle),
            read_good_parts(
                station, data, tell, part_template(bundle), bundle.manifest.settings.levels, excluded=_not_drawn(job)
            ).images,
            own_figures=evaluation.overall,
            wanted=job.precisions,
            timing_s=job.timing_s,
            folder=Path(folder),
            tell=tell,
        )
    write_text(out / FIGURES, json.dumps(row))


def _check_layout(data: Path, layout: str) -> None:
    found = read_dataset(data).layout.value
    if found != layout:
        raise StorageError(f"{data}: is laid out as {found}, the plan says {layout}; mend the plan, or name its folder")


def _calibrated(job: RowJob, station: Station, tell: Teller) -> tuple[Bundle, dict[str, Any]]:
    """The bundle of this job and how long it took; what an earlier attempt finished is taken as it is."""
    out = Path(job.out)
    note = out / MADE
    if note.is_file():
        made = json.loads(note.read_text(encoding="utf-8"))
        return open_bundle(out / made["folder"]), made
    work = out / "work"
    resumed = work.exists()
    started_s = time.monotonic()
    seen: dict[str, Any] = {}
    bundle = calibrate_station(
        station,
        Path(job.data),
        out / "bundles",
        job.preset,
        tell,
        work=work,
        excluded=_not_drawn(job),
        learnt=lambda fitted: seen.update(left_out_figures(fitted)),
    )
    made = {
        "folder": str(bundle.folder.relative_to(out.resolve())),
        "calibration_s": round(time.monotonic() - started_s, 1),
        "resumed": resumed,
        "left_out": seen,
    }
    write_text(note, json.dumps(made))
    shutil.rmtree(work, ignore_errors=True)  # checkpoints, of no more use
    return bundle, made


def _not_drawn(job: RowJob) -> frozenset[str]:
    """Paths of the good parts that the job leaves out, because it learns from fewer."""
    good = read_dataset(Path(job.data)).good
    kept = {sample.path for sample in drawn(good, job.parts, job.seed)}
    return frozenset(str(sample.path) for sample in good if sample.path not in kept)


def _about(bundle: Bundle) -> dict[str, Any]:
    manifest, limits = bundle.manifest, bundle.thresholds
    return {
        "bundle": bundle.short_hash,
        "family": manifest.settings.model.family,
        "teachers": [teacher.name for teacher in manifest.teachers],
        "good_to_calibrate": manifest.data.count,
        "precision": manifest.engine.precision,
        "promised": [limits.low, limits.high],
        "asked_rate": limits.asked_rate,
        "version": manifest.product_version,
    }


def _examined(bundle: Bundle, station: Station, samples: Sequence[Sample], pictures: Path, tell: Teller) -> Evaluation:
    """Evaluate the bundle's own engine, and draw what it said."""
    runtime = load_runtime(bundle, station.engine)
    try:
        verify(bundle, runtime)
        watched = WatchedRuntime(runtime, samples, preparer(bundle), bundle.thresholds, bundle.regions)
        evaluation = evaluate(
            samples,
            watched.prepare,
            watched,
            bundle.thresholds,
            regions=bundle.regions,
            learnt=bundle.manifest.data,
            progress=lambda done, total: tell("evaluating", done, total),
        )
        tell("drawing", 0, 1)
        draw_pictures(pictures, bundle, watched.said, preparer(bundle), runtime)
    finally:
        runtime.close()
    return evaluation
