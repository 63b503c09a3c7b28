"""What another precision costs: the same trained network through engines of each, on the same labelled parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarking.engine import golden_images, interleaved_ms, own_variant
from calibration.dataset import Sample
from calibration.evaluate import Figures, Frame, Prepared, evaluate
from engines.artifact import Bundle
from engines.compilation.precision import VARIANTS, Variant, build_model
from engines.errors import EngineUnavailable
from engines.runtimes import Runtime
from engines.runtimes.openvino import OpenVinoRuntime, parse_precision

Images = NDArray[np.uint8]
Prepare = Callable[[Frame], Prepared]
Tell = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionFigures:
    """One engine of the network. `kept`: it is the bundle's own. left_out: why there is none, the rest None then.

    Rates are at the bundle's limits, which were chosen on the scores of the engine that was kept.
    """

    precision: str
    kept: bool
    left_out: str = ""
    median_ms: float | None = None
    p99_ms: float | None = None
    image_auroc: float | None = None
    false_reject_rate: float | None = None
    escape_rate: float | None = None


def compare_precisions(
    bundle: Bundle,
    samples: Sequence[Sample],
    prepare: Prepare,
    good_parts: Images,
    *,
    own_figures: Figures,
    wanted: Sequence[str],
    timing_s: float,
    folder: Path,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Build, time (in turns, `timing_s` each) and evaluate an engine of each wanted precision; JSON-ready figures.

    good_parts: (P, H, W, 3) uint8 RGB, for int8's ranges, those of calibration. own_figures: what the bundle's own
    engine reached on these samples. folder: empty, for the models. Blocks for minutes. Raises EngineFault, DataError.
    """
    images, own = golden_images(bundle), own_variant(bundle)
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        runtimes: dict[str, Runtime] = {}
        for number, name in enumerate(dict.fromkeys((*wanted, own))):
            tell("building engines", number, len(wanted))
            try:
                runtimes[name] = _runtime(bundle, name, own, good_parts, folder)
            except EngineUnavailable as error:
                left_out[name] = str(error)
            else:
                stack.callback(runtimes[name].close)
        tell("timing engines", 0, 1)
        samples_ms = interleaved_ms(runtimes, images, timing_s)
        figures = []
        for name, runtime in runtimes.items():
            found = own_figures
            if name != own:
                found = _evaluated(bundle, runtime, samples, prepare, partial(tell, f"evaluating {name}"))
            figures.append(_figures(name, found, samples_ms[name], kept=name == own))
    figures += [PrecisionFigures(precision=name, kept=False, left_out=why) for name, why in left_out.items()]
    return [asdict(one) for one in figures]


def _runtime(bundle: Bundle, name: str, own: str, good_parts: Images, folder: Path) -> OpenVinoRuntime:
    """The engine of one variant; the bundle's own is taken as it is."""
    engine, threads = bundle.manifest.engine, bundle.manifest.settings.engine.threads
    if name == own:
        return OpenVinoRuntime(bundle.path(engine.files["model"]), parse_precision(engine.precision), threads)
    variant = _variant(name)
    model = folder / f"{variant.precision}.xml"
    build_model(bundle.path(engine.files["graph"]), variant, good_parts, model)
    return OpenVinoRuntime(model, variant.precision, threads)


def _variant(name: str) -> Variant:
    return next(variant for variant in VARIANTS if variant.name == name)


def _evaluated(
    bundle: Bundle,
    runtime: Runtime,
    samples: Sequence[Sample],
    prepare: Prepare,
    progress: Callable[[int, int], None],
) -> Figures:
    unmarked = [replace(sample, mask_path=None) for sample in samples]  # pixel figures take long, and are not compared
    found = evaluate(unmarked, prepare, runtime, bundle.thresholds, regions=bundle.regions, progress=progress)
    return found.overall


def _figures(name: str, found: Figures, taken_ms: list[float], *, kept: bool) -> PrecisionFigures:
    median, p99 = np.percentile(taken_ms, (50, 99))
    return PrecisionFigures(
        precision=name,
        kept=kept,
        median_ms=float(median),
        p99_ms=float(p99),
        image_auroc=found.image_auroc,
        false_reject_rate=found.false_reject_rate,
        escape_rate=found.escape_rate,
    )
