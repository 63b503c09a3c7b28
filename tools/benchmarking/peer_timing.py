"""Inference times beside anomalib's models: all under the same OpenVINO, in turns, on images of the same size."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarking.engine import golden_images, interleaved_ms, own_variant, variant_models
from benchmarking.machine import describe_machine
from benchmarking.peer_environment import answer_of, make_environment
from benchmarking.peers import NEEDED, PADIM, PATCHCORE, PeerSettings, peer_command
from benchmarking.steps import Row, StepFailed, Tell, TookTooLong, read_rows, shown_on, write_rows
from engines.artifact import Bundle
from engines.runtimes import Runtime, infer
from engines.runtimes.openvino import DEVICE, OpenVinoRuntime, Precision, import_openvino
from inspectd.errors import UsageError

TIME, STFPM = "time", "stfpm"
TIMED = {PADIM: "PaDiM, ResNet18", STFPM: "STFPM, ResNet18", PATCHCORE: "PatchCore, ResNet18"}
REFERENCE: Precision = "f32"
THREADS = (1, 2)
LIMIT = "ONEDNN_MAX_CPU_ISA"
INSTRUCTIONS = ("sse42", "avx2", "avx512", "amx")
"""Parts of the names that OpenVINO gives its kernels, the widest last."""
HEAVY = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})
SAME_SCORE = 1e-2
"""Relative difference between torch and OpenVINO, above which what is timed is not the model that was exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedEngine:
    """One engine with so many threads. peer: it is one of anomalib's.

    heavy, light: the widest instructions of its convolutions and matrix products, and of its other kernels that have
    instructions in their name.
    """

    name: str
    peer: bool
    threads: int
    median_ms: float
    p99_ms: float
    inferences: int
    heavy: str
    light: str


@dataclass(frozen=True, slots=True)
class _Engine:
    name: str
    peer: bool
    model: Path
    precision: Precision


def measure_times(
    bundle: Bundle, data: Path, settings: PeerSettings, seconds: float, *, out: Path, work: Path, bars: Progress
) -> list[Row]:
    """Time the bundle's f32 engine, the variant it keeps, PaDiM, STFPM and PatchCore in turns; add a row to `out`.

    The peers learn from the good parts of `data`, at the bundle's canvas. Nothing is measured that `out` has with the
    same settings. Returns the rows of this bundle and these settings, one for each limit of instructions that there
    was. Blocks for minutes. Raises StepFailed, StorageError, UsageError, EngineUnavailable.
    """
    wanted = _settings(bundle, data, settings, seconds)
    rows = read_rows(out, NEEDED)
    known = [row for row in rows if row["model"] == TIME and _unlimited(row["settings"]) == _unlimited(wanted)]
    done = [row for row in known if row["settings"] == wanted]
    if done and not settings.again:
        return known
    step = bars.add_task("", total=None)
    tell = shown_on(bars, step)
    with tempfile.TemporaryDirectory(prefix="inspectd-times-") as folder:
        row = {"data": data.name, "model": TIME, "settings": wanted, "machine": describe_machine()}
        row |= _timed(bundle, data, settings, seconds, folder=Path(folder), work=work, tell=tell)
    bars.remove_task(step)
    write_rows(out, [*(one for one in rows if one not in done), row])
    return [*(one for one in known if one not in done), row]


def ratios(row: Row) -> dict[tuple[str, int], float]:
    """Each engine's median over that of the fastest peer with as many threads, by its name and threads."""
    engines = row["engines"]
    fastest = {
        threads: min(one["median_ms"] for one in engines if one["peer"] and one["threads"] == threads)
        for threads in {one["threads"] for one in engines if one["peer"]}
    }
    return {
        (one["name"], one["threads"]): one["median_ms"] / fastest[one["threads"]]
        for one in engines
        if one["threads"] in fastest
    }


def widest(kernels: Sequence[str]) -> str:
    """The widest of INSTRUCTIONS that the names of kernels speak of; '-' where none does."""
    found = {name for kernel in kernels for name in re.findall("|".join(INSTRUCTIONS), kernel)}
    return max(found, key=INSTRUCTIONS.index, default="-")


def _settings(bundle: Bundle, data: Path, settings: PeerSettings, seconds: float) -> dict[str, Any]:
    return {
        "bundle": bundle.short_hash,
        "parts": settings.parts,
        "coreset": settings.coreset,
        "seed": settings.seed,
        "weights": settings.weights.name if settings.weights.is_file() else "as drawn",
        "seconds": seconds,
        "set": data.name,
        "limit": os.environ.get(LIMIT, ""),
    }


def _unlimited(wanted: Row) -> Row:
    return {name: value for name, value in wanted.items() if name != "limit"}


def _timed(
    bundle: Bundle, data: Path, settings: PeerSettings, seconds: float, *, folder: Path, work: Path, tell: Tell
) -> Row:
    canvas = bundle.manifest.settings.canvas
    if canvas.width_px != canvas.height_px:
        raise UsageError(f"{bundle.folder}: its canvas is not square, and anomalib's models are timed on squares")
    peers, unfinished, versions = _exported(data, settings, canvas.width_px, folder=folder, work=work, tell=tell)
    images = golden_images(bundle)
    own = [
        _Engine(_product_name(bundle, name), False, model, precision)
        for name, model, precision in variant_models(
            bundle, images, folder, lambda what: tell(what, 0, 1), {REFERENCE, own_variant(bundle)}
        )
    ]
    engines = [*own, *peers]
    kernels = {engine.name: _kernels(engine) for engine in engines}
    figures: list[TimedEngine] = []
    counts = [threads for threads in THREADS if threads <= len(os.sched_getaffinity(0))]
    for done, threads in enumerate(counts):
        tell(f"timing, threads: {threads}", done, len(counts))
        with ExitStack() as stack:
            runtimes: dict[str, Runtime] = {}
            for engine in engines:
                runtimes[engine.name] = OpenVinoRuntime(engine.model, engine.precision, threads)
                stack.callback(runtimes[engine.name].close)
            taken = interleaved_ms(runtimes, images, seconds)
        figures += [_figures(engine, threads, taken[engine.name], kernels[engine.name]) for engine in engines]
    return {
        "image": f"{canvas.width_px}x{canvas.height_px}",
        "station": bundle.station,
        "engines": [asdict(one) for one in figures],
        "unfinished": unfinished,
        "versions": versions,
    }


def _product_name(bundle: Bundle, variant: str) -> str:
    return f"inspectd, {variant}" + (" (kept)" if variant == own_variant(bundle) else "")


def _exported(
    data: Path, settings: PeerSettings, size: int, *, folder: Path, work: Path, tell: Tell
) -> tuple[list[_Engine], list[str], str]:
    """anomalib's models as ONNX, each checked to say what it said in torch; which were ended; and their versions."""
    tell("environment", 0, 1)
    work.mkdir(parents=True, exist_ok=True)
    python = make_environment(work / "venv", work / "venv.log")
    engines, unfinished, versions = [], [], ""
    for model, name in TIMED.items():
        target, log = folder / f"{model}.onnx", work / f"export-{model}.log"
        command = [*peer_command(python, model, data, settings, size), "--export", str(target)]
        try:
            said = answer_of(command, log, tell, settings.most_s)
        except TookTooLong:
            unfinished.append(f"{name}: not finished in {settings.most_s:g} s")
            continue
        _check_export(target, said["score"], name)
        versions = said["versions"]
        patches = f", {said['patches']} patches" if said["patches"] else ""
        engines.append(_Engine(f"{name}{patches}", True, target, REFERENCE))
    return engines, unfinished, versions


def _check_export(model: Path, score: float, name: str) -> None:
    """Raise StepFailed where OpenVINO's score of the probe image is another one than torch's."""
    runtime = OpenVinoRuntime(model, REFERENCE)
    try:
        found = infer(runtime, np.load(model.with_suffix(".npy"))).part_score
    finally:
        runtime.close()
    if not abs(found - score) <= SAME_SCORE * abs(score):
        raise StepFailed(f"{name}: OpenVINO gives a score of {found:.6g} where torch gives {score:.6g}")


def _kernels(engine: _Engine) -> tuple[str, str]:
    """The widest instructions of an engine's heavy kernels and of its others, as OpenVINO names what it executes."""
    ov = import_openvino()
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if engine.precision == "bf16" else "f32"}
    compiled = ov.Core().compile_model(engine.model, DEVICE, hints)
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for operation in compiled.get_runtime_model().get_ops():
        about = operation.get_rt_info()
        kinds[_text(about["layerType"]) in HEAVY].append(_text(about["primitiveType"]))
    return widest(kinds[True]), widest(kinds[False])


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _figures(engine: _Engine, threads: int, taken_ms: Sequence[float], kernels: tuple[str, str]) -> TimedEngine:
    median, p99 = np.percentile(taken_ms, (50, 99))
    return TimedEngine(
        name=engine.name,
        peer=engine.peer,
        threads=threads,
        median_ms=float(median),
        p99_ms=float(p99),
        inferences=len(taken_ms),
        heavy=kernels[0],
        light=kernels[1],
    )
