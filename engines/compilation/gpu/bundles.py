"""A bundle -> its plan in this machine's cache: type the graph, build, reproduce the golden images, accept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines import golden
from engines.artifact import Bundle
from engines.compilation.gpu.build import BuiltPlan, Progress, build_plan
from engines.compilation.gpu.cut import Cut, patch_factors
from engines.compilation.gpu.graphs import NO_PARTS, typed_graph
from engines.gpu import Gpu, TensorRt
from engines.plans import PatchStage, Plan, PlanCache, PlanPrecision, Reproduced, plan_key
from engines.runtimes import Runtime


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Which plan to build: of which bundle, in which precision, by what, for which GPU, where it goes, for how many
    parts at once.
    """

    bundle: Bundle
    precision: PlanPrecision
    gpu: Gpu
    tensorrt: TensorRt
    cache: PlanCache
    batch: int = 1


def build_for_bundle(
    request: PlanRequest,
    load: Callable[[Plan], Runtime],
    *,
    good_parts: NDArray[np.uint8] = NO_PARTS,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Path, Reproduced]:
    """Build the plan and put it into the cache, in place of one that is there; returns its folder.

    load: how a plan is run on this machine; the golden images go through it before the plan is accepted. good_parts:
    for int8, (P, H, W, 3) uint8 RGB. Blocks for minutes. Raises EngineUnavailable, ParityError where the engine does
    not reproduce the golden images (the plan is discarded), BundleError, EngineFault, OSError.
    """
    bundle, cache = request.bundle, request.cache
    key = plan_key(bundle, request.gpu, request.tensorrt, request.precision, batch=request.batch)
    progress("type the graph", 0, 1)
    graph = bundle.path(bundle.manifest.engine.files["graph"])
    typed = typed_graph(graph, request.precision, good_parts, batch=request.batch)
    progress("type the graph", 1, 1)
    built: BuiltPlan = build_plan(request.tensorrt.module, typed.model, timing=cache.timing(key), progress=progress)
    if built.timing:
        cache.keep_timing(key, built.timing)
    with cache.draft(key, built.serialised, None if typed.cut is None else _stage(bundle, typed.cut)) as draft:
        progress("golden images", 0, 1)
        runtime = load(draft.plan)
        try:
            report = golden.verify(bundle, runtime)
        finally:
            runtime.close()
        progress("golden images", 1, 1)
        reproduced = Reproduced(images=report.images, worst_deviation=report.worst_deviation)
        return draft.accept(reproduced), reproduced


def _stage(bundle: Bundle, cut: Cut) -> PatchStage:
    """What the kernel needs, from the bundle's settings and the graph's own weights."""
    settings = bundle.manifest.settings
    lambdas = tuple(weight.value for weight in bundle.manifest.lambdas)
    return PatchStage(
        combine=cut.combine,
        canvas=settings.canvas,
        regions=settings.regions,
        patch_gmsd=settings.model.patch_gmsd,
        lambdas=lambdas,
        patch_factor=patch_factors(cut, lambdas),
    )
