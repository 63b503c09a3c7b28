"""Trained network -> graph.onnx -> compiled engine, with a parity check; called by calibration, never by the daemon.

The files that it writes are what the bundle carries and what `engines.runtimes.load_runtime` loads.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines.artifact import ParityRow
from engines.compilation.graph import export_graph
from engines.compilation.parity import (
    MAX_NETWORK_ERROR,
    MEDIAN_NETWORK_ERROR,
    Candidate,
    PartScores,
    Verdicts,
    fastest,
    judge,
    median_ms,
    parity_rows,
    relative_errors,
    score_parts,
)
from engines.compilation.precision import Variant, build_model, variants_of
from engines.errors import EngineUnavailable, ParityError
from engines.runtimes.openvino import OpenVinoRuntime, Precision
from engines.settings import CanvasSettings, EngineSettings

GRAPH: Final = "graph.onnx"
MODEL: Final = "engine.xml"
WEIGHTS: Final = "engine.bin"


Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""


@dataclass(frozen=True, slots=True)
class CompiledEngine:
    """What compilation made: its files by role (graph, model, weights), and the table that the choice rests on.

    The bundle keeps the files' names: OpenVINO finds the weights by the model's.
    network_error: largest relative difference between the f32 engine's scores and the trained network's. left_out: what
    `auto` could not build or run here, and why, one line each.
    """

    runtime: str
    precision: Precision
    files: dict[str, Path]
    parity: tuple[ParityRow, ...]
    network_error: float
    left_out: tuple[str, ...] = ()


def compile_engine(
    module: nn.Module,
    *,
    canvas: CanvasSettings,
    regions: int,
    out: Path,
    engine: EngineSettings,
    calibration_images: NDArray[np.uint8],
    parity_images: NDArray[np.uint8],
    verdicts: Verdicts,
    progress: Progress = lambda what, done, total: None,
) -> CompiledEngine:
    """Compile a trained fused network into `out`, in the precision asked for, and check it against the network.

    module: FusedEngine's signature, its scores in a submodule `tail`; regions: how many it scores.
    calibration_images: (P, H, W, 3) uint8 RGB good parts, for int8's ranges. parity_images: (Q, H, W, 3), golden and
    held-out parts, Q >= 2. verdicts: applied to each candidate's own scores.
    Blocks for 5 to 20 s. Raises ParityError where the f32 engine is not the trained network, or a precision that was
    asked for by name changes a verdict; EngineUnavailable where that precision cannot be built or run here.
    """
    shape = (canvas.height_px, canvas.width_px, 3)
    for name, parts, least in (("calibration_images", calibration_images, 1), ("parity_images", parity_images, 2)):
        if parts.shape[1:] != shape or parts.dtype != np.uint8 or len(parts) < least:
            raise ValueError(f"{name}: expected at least {least} x {shape} uint8, got {parts.shape} {parts.dtype}")
    out.mkdir(parents=True, exist_ok=True)
    progress("export", 0, 1)
    export_graph(module, canvas, regions, out / GRAPH)
    progress("export", 1, 1)
    with tempfile.TemporaryDirectory(dir=out, prefix=".candidates-") as folder:
        left_out: list[str] = []
        built = _build(out / GRAPH, Path(folder), engine, calibration_images, progress, left_out=left_out)
        runtimes = {variant.name: runtime for variant, runtime in built.items()}
        scores = {name: _scores(name, runtime, parity_images, progress) for name, runtime in runtimes.items()}
        network_error = _check_network(module, parity_images, scores["f32"], progress)
        latencies = median_ms(runtimes, parity_images[0])
        table = [judge(each, scores[each.name], scores["f32"], verdicts, latencies[each.name]) for each in built]
        chosen = _choose(table, engine)
        for runtime in runtimes.values():
            runtime.close()
        model = _model_path(Path(folder), table.index(chosen))
        for suffix in (".xml", ".bin"):
            shutil.move(model.with_suffix(suffix), (out / MODEL).with_suffix(suffix))
    return CompiledEngine(
        runtime="openvino",
        precision=chosen.precision,
        files={"graph": out / GRAPH, "model": out / MODEL, "weights": out / WEIGHTS},
        parity=parity_rows(table, chosen),
        network_error=network_error,
        left_out=tuple(left_out),
    )


def _build(
    graph: Path,
    folder: Path,
    engine: EngineSettings,
    calibration_images: NDArray[np.uint8],
    progress: Progress,
    *,
    left_out: list[str],
) -> dict[Variant, OpenVinoRuntime]:
    """The f32 engine and the variants beside it; `auto` goes on without what this machine cannot run."""
    runtimes: dict[Variant, OpenVinoRuntime] = {}
    wanted = variants_of(graph, engine.precision)
    for done, variant in enumerate(wanted):
        progress("compile", done, len(wanted))
        model = _model_path(folder, len(runtimes))
        try:
            build_model(graph, variant, calibration_images, model)
            runtimes[variant] = OpenVinoRuntime(model, variant.precision, engine.threads)
        except EngineUnavailable as error:
            if engine.precision != "auto" or variant.precision == "f32":
                raise
            left_out.append(f"engine {variant.name} was left out: {error}")
    progress("compile", len(wanted), len(wanted))
    return runtimes


def _model_path(folder: Path, index: int) -> Path:
    return folder / f"variant-{index}.xml"


def _scores(name: str, runtime: OpenVinoRuntime, parts: NDArray[np.uint8], progress: Progress) -> PartScores:
    return score_parts(runtime, parts, lambda done: progress(f"parity {name}", done, len(parts)))


def _check_network(module: nn.Module, parts: NDArray[np.uint8], engine: PartScores, progress: Progress) -> float:
    """Largest relative error of the f32 engine against the trained network. Raises ParityError above the limits."""
    part: list[float] = []
    regions: list[NDArray[np.float64]] = []
    module = module.eval()
    with torch.inference_mode():
        for done, image in enumerate(parts, start=1):
            outputs = module(torch.from_numpy(image[None]))
            part.append(float(outputs[0][0]))
            regions.append(outputs[1][0].double().numpy())
            progress("parity network", done, len(parts))
    network = PartScores(np.asarray(part), np.stack(regions))
    errors = relative_errors(engine, network)
    middle, worst = float(np.median(errors)), float(errors.max())
    finite = engine.finite() and network.finite()
    if middle > MEDIAN_NETWORK_ERROR or worst > MAX_NETWORK_ERROR or not finite:
        raise ParityError(
            f"the compiled f32 engine differs from the trained network by {middle:.2g} of the score on half of the "
            f"parts (limit {MEDIAN_NETWORK_ERROR:g}), by {worst:.2g} at most (limit {MAX_NETWORK_ERROR:g}): this is a "
            "fault of the compiler, not of the parts; try another version of openvino, and report this one"
        )
    return worst


def _choose(table: Sequence[Candidate], engine: EngineSettings) -> Candidate:
    """The fastest that keeps parity, or of the precision asked for by name the best. Raises ParityError.

    A precision by name may lose some rank correlation, never a verdict.
    """
    if engine.precision == "auto":
        return fastest(table)
    asked = [candidate for candidate in table if candidate.precision == engine.precision]
    allowed = [candidate for candidate in asked if not candidate.verdict_changes]
    if not allowed:
        faults = "; ".join(asked[0].faults)
        raise ParityError(f"engine.precision {engine.precision} is refused: {faults}; set it to auto, or to f32")
    return min(allowed, key=lambda candidate: (bool(candidate.faults), candidate.median_ms))
