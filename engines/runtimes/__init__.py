"""The Runtime protocol: one compiled engine with slots that hold host buffers, so that a GPU fits as well as a CPU.

A slot is one part in flight: the caller writes the part image into `slot.input` (pinned memory on a GPU), calls
`start`, then `wait`. On a GPU `start` enqueues copy in, graph and copy out on the slot's stream and `wait` waits for
its event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineUnavailable

if TYPE_CHECKING:
    from engines.artifact import Bundle
    from engines.plans import Plan
    from engines.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Outputs:
    """One part's answer. Arrays are views that stay valid until their slot is started again; copy to keep.

    part_score: the number that the part threshold applies to.
    region_scores: (R,) float32, in the order of the bundle's regions.
    anomaly_map: (H1, W1) float32, the map whose maximum drives the score.
    reconstruction: (H, W) float32 in [0, 1], grey, or None without a decoder.
    """

    part_score: float
    region_scores: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]
    reconstruction: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What is running: for logs, records and `inspectd check`.

    batch: parts in one inference. Where it is N, the first N slots are one inference's places: it begins when all of
    them were started, or when the first of them has waited long enough. note: what else was chosen as it
    was loaded, and why.
    """

    runtime: str
    version: str
    precision: str
    device: str
    batch: int = 1
    note: str = ""


class Slot(Protocol):
    """One part in flight. Not thread-safe: one owner at a time."""

    @property
    def input(self) -> NDArray[np.uint8]:
        """The (H, W, 3) uint8 RGB host buffer that `start` sends."""

    def start(self) -> None:
        """Begin the inference and return at once. Raises EngineFault."""

    def wait(self, timeout_s: float) -> Outputs:
        """Block until the answer is there. Raises EngineFault when it fails, EngineTimeout when `timeout_s` passes."""


class Runtime(Protocol):
    """A loaded engine."""

    @property
    def info(self) -> RuntimeInfo:
        """What is running."""

    @property
    def slots(self) -> Sequence[Slot]:
        """At least one; all usable side by side."""

    def close(self) -> None:
        """Free what the engine holds; the slots are unusable afterwards."""


def infer(runtime: Runtime, part_image: NDArray[np.uint8], timeout_s: float = 60.0) -> Outputs:
    """Run one (H, W, 3) uint8 RGB part image through the first slot; blocks. Raises EngineFault."""
    (outputs,) = infer_together(runtime, [part_image], timeout_s)
    return outputs


def infer_together(
    runtime: Runtime, part_images: Sequence[NDArray[np.uint8]], timeout_s: float = 60.0
) -> list[Outputs]:
    """Run up to `RuntimeInfo.batch` (H, W, 3) uint8 RGB part images through the first slots, as one inference; blocks.

    Raises EngineFault.
    """
    slots = runtime.slots[: len(part_images)]
    for slot, part_image in zip(slots, part_images, strict=True):
        np.copyto(slot.input, part_image)
        slot.start()
    return [slot.wait(timeout_s) for slot in slots]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A loaded engine; why: this runtime and no other, one line for people."""

    runtime: Runtime
    why: str


def load_runtime(bundle: Bundle, engine: EngineSettings) -> Runtime:
    """As `load_chosen`, where nobody asks why."""
    return load_chosen(bundle, engine).runtime


def load_chosen(bundle: Bundle, engine: EngineSettings) -> Chosen:
    """Load the engine that the station's settings ask for; blocks for up to a few seconds.

    `auto`: TensorRT where everything for it is there (`engines.runtimes.choice`), else the bundle's own engine. Raises
    EngineUnavailable.
    """
    from engines.runtimes.choice import choose_runtime, without_plan

    choice = choose_runtime(bundle, engine)
    if choice.plan is not None:
        try:
            runtime = run_plan(choice.plan, engine.batch_wait_ms)
            return Chosen(runtime, "; ".join(filter(None, (choice.why, runtime.info.note))))
        except EngineUnavailable as error:
            choice = without_plan(bundle, engine, error)
    return Chosen(_load_own(bundle, engine, choice.runtime), choice.why)


def _load_own(bundle: Bundle, engine: EngineSettings, runtime: str) -> Runtime:
    """The bundle's own engine. Its thresholds were chosen on the scores of its precision: another one is refused."""
    made = bundle.manifest.engine
    role = {"openvino": "model", "torch": "network"}.get(runtime)
    if role is None or role not in made.files:
        raise EngineUnavailable(f"{bundle.folder}: the bundle has no engine for runtime {runtime}: calibrate again")
    precision = "f32" if runtime == "torch" else made.precision
    if engine.precision not in {"auto", precision}:
        raise EngineUnavailable(
            f"{bundle.folder}: the bundle's engine and thresholds are {precision}, the station asks for "
            f"{engine.precision}: calibrate again, or set engine.precision: auto"
        )
    file = bundle.path(made.files[role])
    if runtime == "torch":
        from engines.runtimes.torch import TorchRuntime

        return TorchRuntime(file, engine.threads)
    from engines.runtimes.openvino import OpenVinoRuntime, parse_precision

    return OpenVinoRuntime(file, parse_precision(precision), engine.threads)


def run_plan(plan: Plan, batch_wait_ms: float = 0.0) -> Runtime:
    """Load a plan on this machine's GPU; blocks for some seconds. Raises EngineUnavailable.

    batch_wait_ms: how long the first part of a batch waits for company.
    """
    from engines.gpu import import_tensorrt
    from engines.runtimes.gpu.packages import gpu_packages
    from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

    options = GpuOptions(batch_wait_ms=batch_wait_ms)
    return TensorRtRuntime(plan, gpu_packages(import_tensorrt().module), options)
