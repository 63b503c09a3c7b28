"""How long one inference takes: a bundle's own engine and the other variants of its graph, interleaved."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarking.machine import markdown_table
from engines.artifact import Bundle, ParityRow
from engines.errors import EngineUnavailable
from engines.golden import read_golden
from engines.runtimes import Runtime, infer
from engines.runtimes.openvino import OpenVinoRuntime, parse_precision
from inspectd.errors import SettingsError

ROUND_S = 0.25
"""How long one engine runs before it is the next one's turn: all of them see the same machine."""
WARM_UP = 5


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Latency of one variant, over `inferences`; kept: it is the bundle's own. why: what calibration said of it."""

    variant: str
    kept: bool
    inferences: int
    median_ms: float
    p99_ms: float
    rank_correlation: float | None
    why: str


def measure_bundle(bundle: Bundle, threads: int, seconds: float, tell: Callable[[str], None]) -> list[EngineFigures]:
    """Time every variant that this machine can run; blocks for about `seconds` each, plus building.

    The bundle's own model is timed as it is, the others are built from its graph: int8 with the golden images, which
    settles its speed and not its scores; those are in the manifest. Raises EngineUnavailable, BundleError,
    SettingsError where the packages of calibration are missing.
    """
    images = np.stack([read_golden(bundle, golden) for golden in bundle.manifest.golden])
    rows = {row.precision: row for row in bundle.manifest.engine.parity}
    own = next((name for name, row in rows.items() if row.kept), bundle.manifest.engine.precision)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runtimes = {own: _own_runtime(bundle, threads)}
        stack.callback(runtimes[own].close)
        graph = bundle.path(bundle.manifest.engine.files["graph"])
        for name, runtime in _built(graph, threads, images, Path(folder), tell):
            if name == own:
                runtime.close()
                continue
            stack.callback(runtime.close)
            runtimes[name] = runtime
        tell("timing")
        samples = interleaved_ms(runtimes, images, seconds)
    return [_figures(name, name == own, taken, rows.get(name)) for name, taken in samples.items()]


def _figures(name: str, kept: bool, taken_ms: list[float], row: ParityRow | None) -> EngineFigures:
    median, p99 = np.percentile(taken_ms, (50, 99))
    return EngineFigures(
        variant=name,
        kept=kept,
        inferences=len(taken_ms),
        median_ms=float(median),
        p99_ms=float(p99),
        rank_correlation=None if row is None else row.rank_correlation,
        why="" if row is None else row.why,
    )


def interleaved_ms(
    runtimes: Mapping[str, Runtime], images: NDArray[np.uint8], seconds: float
) -> dict[str, list[float]]:
    """Latencies in ms of single inferences on (P, H, W, 3) uint8 images, in turns of ROUND_S, `seconds` for each."""
    samples: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(max(1, round(seconds / ROUND_S))):
        for name, runtime in runtimes.items():
            for image in images[:WARM_UP]:  # caches hold the engine that ran before
                infer(runtime, image)
            end_s = time.perf_counter() + ROUND_S
            turn = 0
            while (started_s := time.perf_counter()) < end_s:
                infer(runtime, images[turn % len(images)])
                samples[name].append((time.perf_counter() - started_s) * 1e3)
                turn += 1
    return samples


def engine_table(measured: Sequence[tuple[Bundle, Sequence[EngineFigures]]]) -> str:
    """Markdown: one row for each bundle and precision."""
    rows = []
    for bundle, figures in measured:
        canvas = bundle.manifest.settings.canvas
        for one in figures:
            rows.append(
                (
                    f"`{bundle.station}` {bundle.short_hash}",
                    f"{canvas.width_px}x{canvas.height_px}",
                    f"**{one.variant}**" if one.kept else one.variant,
                    f"{one.median_ms:.2f}",
                    f"{one.p99_ms:.2f}",
                    str(one.inferences),
                    "-" if one.rank_correlation is None else f"{one.rank_correlation:.5f}",
                    one.why,
                )
            )
    head = ("bundle", "canvas", "variant", "median ms", "p99 ms", "inferences", "rank correlation with f32", "parity")
    return markdown_table(head, rows)


def _own_runtime(bundle: Bundle, threads: int) -> Runtime:
    """The engine that the daemon runs."""
    engine = bundle.manifest.engine
    return OpenVinoRuntime(bundle.path(engine.files["model"]), parse_precision(engine.precision), threads)


def _built(
    graph: Path, threads: int, images: NDArray[np.uint8], folder: Path, tell: Callable[[str], None]
) -> Iterator[tuple[str, Runtime]]:
    """The variants of the graph that this machine can build and run."""
    try:
        from engines.compilation.precision import build_model, variants_of
    except ImportError as error:
        raise SettingsError(f"benchmark engine needs {error.name}: pip install 'inspectd[calibrate]'") from error
    for number, variant in enumerate(variants_of(graph, "auto")):
        tell(f"building {variant.name}")
        model = folder / f"{number}.xml"
        try:
            build_model(graph, variant, images, model)
            yield variant.name, OpenVinoRuntime(model, variant.precision, threads)
        except EngineUnavailable as error:
            tell(f"{variant.name} left out: {error}")
