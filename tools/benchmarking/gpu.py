"""A plan on this machine's GPU: latency, throughput, and its share of what the card can copy and compute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarking.gpu_counts import GraphCounts, count_graph
from benchmarking.machine import markdown_table
from engines.artifact import Bundle
from engines.compilation.gpu.build import build_plan
from engines.compilation.gpu.graphs import typed_graph
from engines.golden import read_golden
from engines.gpu import import_tensorrt
from engines.kernels.cost import StageCost, stage_cost
from engines.plans import Plan, PlanPrecision
from engines.runtimes.gpu.buffers import allocate, page_locked
from engines.runtimes.gpu.device import GpuDevice
from engines.runtimes.gpu.packages import GpuPackages, gpu_packages
from engines.runtimes.gpu.planned import PlanContext, PlannedEngine
from engines.runtimes.gpu.ranges import Ranges, no_ranges
from engines.runtimes.gpu.slots import GpuSlot
from engines.runtimes.gpu.stage import kernel_plan
from engines.runtimes.gpu.surface import CudaDriver, Stream
from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

WARM_UP: Final = 200
SAMPLES: Final = 2000
COPY_BYTES: Final = 64 * 2**20
MATMUL_SIDE: Final = 4096
REPEATS: Final = 20
"""Of a ceiling's measurement; the best counts."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the card did in this run: GB/s from page-locked host memory, TFLOP/s of a square matrix product."""

    copy_gb_s: float
    matmul_tflop_s: float


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """One plan. device_ms: by CUDA events, copy in to copy out; host: start to answer, as the daemon waits for it.

    Both of one inference, which may take several parts; copied_bytes, counts and stage: of one part. stage: the
    Patch_GMSD kernels' own count, None where none follow the plan.
    """

    plan: str
    recorded: bool
    device_ms: float
    host_median_ms: float
    host_p99_ms: float
    parts_per_s: float
    copied_bytes: int
    counts: GraphCounts
    stage: StageCost | None
    ceilings: Ceilings

    @property
    def operations(self) -> int:
        """Of networks and kernels, one part's."""
        return self.counts.operations + (0 if self.stage is None else self.stage.operations)

    @property
    def bytes_moved(self) -> int:
        """What both must move between the card's memory and its processors, one part's."""
        return self.counts.bytes_moved + (0 if self.stage is None else self.stage.memory_bytes)


def measure_plan(
    bundle: Bundle, plan: Plan, seconds: float, tell: Callable[[str], None], ranges: Ranges = no_ranges
) -> GpuFigures:
    """Time a plan on the bundle's golden images; blocks for about `seconds`, plus a minute for the ceilings.

    Raises EngineUnavailable, EngineFault, BundleError.
    """
    packages = gpu_packages(import_tensorrt().module)
    images = np.stack([read_golden(bundle, golden) for golden in bundle.manifest.golden])
    tell("ceilings of the card")
    ceilings = measure_ceilings(packages, plan.key.precision)
    tell("counting")
    graph = bundle.path(bundle.manifest.engine.files["graph"])
    counts = count_graph(typed_graph(graph, "f32" if plan.key.precision == "int8" else plan.key.precision).model)
    tell("timing")
    runtime = TensorRtRuntime(plan, packages, GpuOptions(ranges=ranges))
    try:
        host_ms = _host_ms(runtime, images)
        slot = runtime.gpu_slots[0]
        device_ms = float(np.median([slot.timed(10.0) for _ in range(SAMPLES // 10)]))
        median, p99 = np.percentile(host_ms, (50, 99))
        return GpuFigures(
            plan=str(plan.key),
            recorded=runtime.recorded,
            device_ms=device_ms,
            host_median_ms=float(median),
            host_p99_ms=float(p99),
            parts_per_s=_parts_per_s(runtime, images, seconds),
            copied_bytes=(slot.inputs.nbytes + slot.answer_bytes) // slot.batch,
            counts=counts,
            stage=None if plan.stage is None else stage_cost(kernel_plan(plan.stage, 1)),
            ceilings=ceilings,
        )
    finally:
        runtime.close()


def measure_ceilings(packages: GpuPackages, precision: PlanPrecision) -> Ceilings:
    """The card's copies and matrix products now, in `precision` (int8: as f16). Blocks for up to a minute.

    Raises EngineUnavailable, driver.Error.
    """
    driver = packages.driver
    device = GpuDevice(driver)
    try:
        with device.current():
            stream = driver.Stream()
            device.settle_first(stream.synchronize)
            host, target = page_locked(driver, device, (COPY_BYTES,)), allocate(driver, device, COPY_BYTES)
            product = _matrix_product(packages, device, precision)
            copy_s = _best_s(driver, stream, lambda: driver.memcpy_htod_async(target, host, stream))
            product_s = _best_s(driver, stream, lambda: product.enqueue(stream.handle))
    finally:
        device.close()
    return Ceilings(COPY_BYTES / copy_s / 1e9, 2 * MATMUL_SIDE**3 / product_s / 1e12)


def _best_s(driver: CudaDriver, stream: Stream, work: Callable[[], None]) -> float:
    """Least seconds of several runs, by CUDA events."""
    begun, ended = driver.Event(), driver.Event()
    taken = []
    for _ in range(REPEATS):
        begun.record(stream)
        work()
        ended.record(stream)
        stream.synchronize()
        taken.append(ended.time_since(begun) / 1e3)
    return min(taken)


def gpu_table(figures: list[GpuFigures]) -> str:
    """Markdown: one row a plan."""
    head = (
        *("plan", "graph", "device ms", "host median ms", "host p99 ms", "parts/s, two in flight"),
        *(
            "GFLOP a part, Patch_GMSD's in it",
            "MB moved a part",
            "kB copied a part",
            "share of matmul",
            "share of copy",
        ),
    )
    rows = []
    for one in figures:
        flop_s = one.operations * one.parts_per_s
        stage_operations = one.operations - one.counts.operations
        copied_s = one.copied_bytes * one.parts_per_s
        rows.append(
            (
                one.plan,
                "recorded" if one.recorded else "call by call",
                f"{one.device_ms:.3f}",
                f"{one.host_median_ms:.3f}",
                f"{one.host_p99_ms:.3f}",
                f"{one.parts_per_s:.0f}",
                f"{one.operations / 1e9:.3f}, {stage_operations / 1e9:.3f}",
                f"{one.bytes_moved / 1e6:.1f}",
                f"{one.copied_bytes / 1e3:.0f}",
                f"{flop_s / one.ceilings.matmul_tflop_s / 1e12:.1%} of {one.ceilings.matmul_tflop_s:.1f} TFLOP/s",
                f"{copied_s / one.ceilings.copy_gb_s / 1e9:.1%} of {one.ceilings.copy_gb_s:.1f} GB/s",
            )
        )
    return markdown_table(head, rows)


def _host_ms(runtime: TensorRtRuntime, images: NDArray[np.uint8]) -> list[float]:
    """Milliseconds from start to answer of single inferences."""
    slot = runtime.gpu_slots[0]
    taken = []
    for turn in range(WARM_UP + SAMPLES):
        _fill(slot, images, turn)
        started_s = time.perf_counter()
        slot.start()
        slot.wait(10.0)
        taken.append((time.perf_counter() - started_s) * 1e3)
    return taken[WARM_UP:]


def _fill(slot: GpuSlot, images: NDArray[np.uint8], turn: int) -> None:
    """The next images into each place of the slot."""
    for place, target in enumerate(slot.inputs):
        np.copyto(target, images[(turn * slot.batch + place) % len(images)])


def _parts_per_s(runtime: TensorRtRuntime, images: NDArray[np.uint8], seconds: float) -> float:
    """All slots kept busy: each is started again as soon as its answer is there."""
    slots = runtime.gpu_slots
    for slot in slots:
        slot.start()
    done, begun_s = 0, time.perf_counter()
    while (now_s := time.perf_counter()) < begun_s + seconds:
        slot = slots[done % len(slots)]
        slot.wait(10.0)
        _fill(slot, images, done)
        slot.start()
        done += 1
    for slot in slots:
        slot.wait(10.0)
    return done * slots[0].batch / (now_s - begun_s)


def _matrix_product(packages: GpuPackages, device: GpuDevice, precision: PlanPrecision) -> PlanContext:
    """A plan of one large matrix product, with memory of its own."""
    kind = TensorProto.FLOAT if precision == "f32" else TensorProto.FLOAT16
    shape = (MATMUL_SIDE, MATMUL_SIDE)
    ports = [helper.make_tensor_value_info(name, kind, shape) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", ports[:2], ports[2:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    built = build_plan(import_tensorrt().module, model.SerializeToString())
    context = PlannedEngine(packages.tensorrt, device, built.serialised).new_context()
    device.free_later(context.free)
    width = 4 if precision == "f32" else 2
    for name in ("a", "b", "c"):
        context.place(name, allocate(packages.driver, device, width * MATMUL_SIDE**2))
    return context
