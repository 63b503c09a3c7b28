"""Which runtime runs a bundle on this machine, and why; looks for a GPU only where the settings allow TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engines.errors import EngineUnavailable
from engines.gpu import find_gpu, import_tensorrt
from engines.plans import Plan, PlanCache, PlanPrecision, plan_key

if TYPE_CHECKING:
    from engines.artifact import Bundle
    from engines.settings import EngineSettings

AUTO_PLANS: Final[tuple[PlanPrecision, ...]] = ("f16", "f32")
"""What `plan_precision: auto` takes, the fastest first; int8 only where it is asked for by name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """runtime: `tensorrt` or a role of the bundle's own engine; why: one line for people; plan: tensorrt only."""

    runtime: str
    why: str
    plan: Plan | None = None


def choose_runtime(bundle: Bundle, engine: EngineSettings) -> Choice:
    """What `engine.runtime` comes to here: `auto` takes TensorRT where GPU, packages and a plan are there.

    Reads the plan where there is one. Raises EngineUnavailable where tensorrt is asked for by name and something is
    missing: one line says what.
    """
    if engine.runtime not in {"auto", "tensorrt"}:
        return Choice(engine.runtime, f"engine.runtime: {engine.runtime}")
    try:
        plan = find_plan(bundle, engine)
    except EngineUnavailable as error:
        return without_plan(bundle, engine, error)
    return Choice("tensorrt", f"engine.runtime {engine.runtime}: plan {plan.key}", plan)


def without_plan(bundle: Bundle, engine: EngineSettings, missing: EngineUnavailable) -> Choice:
    """The bundle's own engine, where TensorRT cannot run. Raises EngineUnavailable where it was asked for by name."""
    if engine.runtime == "tensorrt":
        raise EngineUnavailable(f"engine.runtime tensorrt: {missing}") from missing
    own = bundle.manifest.engine.runtime
    return Choice(own, f"engine.runtime auto: the bundle's {own}, because TensorRT cannot run: {missing}")


def find_plan(bundle: Bundle, engine: EngineSettings) -> Plan:
    """The accepted plan of this bundle for this machine. Raises EngineUnavailable: one line, what is missing."""
    gpu, tensorrt = find_gpu(), import_tensorrt()
    cache = PlanCache(Path(engine.plans), engine.plans_bytes)
    wanted = plan_precisions(engine)
    for precision in wanted[:-1]:
        key = plan_key(bundle, gpu, tensorrt, precision, batch=engine.batch)
        if cache.has(key):
            return cache.find(key)
    return cache.find(plan_key(bundle, gpu, tensorrt, wanted[-1], batch=engine.batch))


def plan_precisions(engine: EngineSettings) -> tuple[PlanPrecision, ...]:
    """The precisions that `engine.plan_precision` allows, the preferred first."""
    return AUTO_PLANS if engine.plan_precision == "auto" else (engine.plan_precision,)
