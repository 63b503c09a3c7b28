"""How long one inference takes: a bundle's own engine and the other variants of its graph, interleaved."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from engines.runtimes.openvino import OpenVinoRuntime, Precision, parse_precision
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
    images, own = golden_images(bundle), own_variant(bundle)
    rows = {row.precision: row for row in bundle.manifest.engine.parity}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runtimes: dict[str, Runtime] = {}
        for name, model, precision in variant_models(bundle, images, Path(folder), tell):
            try:
                runtimes[name] = OpenVinoRuntime(model, precision, threads)
            except EngineUnavailable as error:
                if name == own:
                    raise
                tell(f"{name} left out: {error}")
                continue
            stack.callback(runtimes[name].close)
        tell("timing")
        samples = interleaved_ms(runtimes, images, seconds)
    return [_figures(name, name == own, taken, rows.get(name)) for name, taken in samples.items()]


def golden_images(bundle: Bundle) -> NDArray[np.uint8]:
    """The bundle's golden images, (P, H, W, 3) uint8 RGB. Raises BundleError."""
    return np.stack([read_golden(bundle, golden) for golden in bundle.manifest.golden])


def own_variant(bundle: Bundle) -> str:
    """The name of the variant that calibration kept; its precision where the bundle does not say."""
    engine = bundle.manifest.engine
    return next((row.precision for row in engine.parity if row.kept), engine.precision)


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


def variant_models(
    bundle: Bundle,
    images: NDArray[np.uint8],
    folder: Path,
    tell: Callable[[str], None],
    wanted: Collection[str] | None = None,
) -> Iterator[tuple[str, Path, Precision]]:
    """The bundle's own model as it is, then the other variants of its graph, built into `folder`; `wanted`: these only.

    images: (P, H, W, 3) uint8 RGB, for int8's ranges. A variant that cannot be built is told of and left out; whether
    this machine can run one, OpenVinoRuntime says. Raises SettingsError where the packages of calibration are missing.
    """
    engine, own = bundle.manifest.engine, own_variant(bundle)
    if wanted is None or own in wanted:
        yield own, bundle.path(engine.files["model"]), parse_precision(engine.precision)
    try:
        from engines.compilation.precision import build_model, variants_of
    except ImportError as error:
        raise SettingsError(f"benchmark engine needs {error.name}: pip install 'inspectd[calibrate]'") from error
    graph = bundle.path(engine.files["graph"])
    for number, variant in enumerate(variants_of(graph, "auto")):
        if variant.name == own or (wanted is not None and variant.name not in wanted):
            continue
        tell(f"building {variant.name}")
        model = folder / f"{number}.xml"
        try:
            build_model(graph, variant, images, model)
        except EngineUnavailable as error:
            tell(f"{variant.name} left out: {error}")
            continue
        yield variant.name, model, variant.precision
