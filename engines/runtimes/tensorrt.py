"""The TensorRT runtime: a plan on one NVIDIA GPU, two inferences in flight, Patch_GMSD as a kernel behind the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from engines.errors import EngineFault, EngineUnavailable
from engines.kernels import KernelImage, kernel_images
from engines.kernels.image import Capability
from engines.plans import Plan
from engines.runtimes import RuntimeInfo, Slot
from engines.runtimes.gpu.batches import Batcher
from engines.runtimes.gpu.buffers import AnswerLayout, SlotBuffers, lay_out
from engines.runtimes.gpu.device import GpuDevice, said
from engines.runtimes.gpu.packages import GpuPackages
from engines.runtimes.gpu.planned import PlannedEngine, PlanPorts
from engines.runtimes.gpu.ranges import Ranges, no_ranges
from engines.runtimes.gpu.slots import GpuSlot, SlotWork
from engines.runtimes.gpu.stage import PatchGmsdStage, ReadyLaunch

SLOTS: Final = 2
"""Inferences in flight: one is copied while the other is computed. More only take memory."""
FIRST_TIMEOUT_S: Final = 60.0
"""For the first inference, in which TensorRT and the driver load what they put off."""


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a plan is run.

    device: the GPU's number. slots: inferences in flight. reconstruction: copy it to the host, too, which no verdict
    needs. graphs: record the work as CUDA graphs where the driver allows. batch_wait_ms: how long the first part of a
    batch waits for company. ranges: marks for Nsight.
    """

    device: int = 0
    slots: int = SLOTS
    reconstruction: bool = False
    graphs: bool = True
    batch_wait_ms: float = 0.0
    ranges: Ranges = no_ranges


class TensorRtRuntime:
    """A loaded plan. May be made, used and closed in different threads, one at a time."""

    def __init__(
        self,
        plan: Plan,
        packages: GpuPackages,
        options: GpuOptions = GpuOptions(),
        *,
        images: Callable[[Capability], Iterator[KernelImage]] | None = None,
    ) -> None:
        """Load the plan, allocate everything, run each slot once and record it; blocks for some seconds.

        images: the kernels for a compute capability, in the order to try them; the project's own by default. Raises
        EngineUnavailable, and leaves nothing allocated, where the plan, the GPU or its memory does not allow it.
        """
        if options.slots < 1 or options.batch_wait_ms < 0:
            raise ValueError(f"slots {options.slots}, batch_wait_ms {options.batch_wait_ms}: at least 1 and 0")
        driver = packages.driver
        self._packages, self._options = packages, options
        self._device = GpuDevice(driver, options.device)
        self._gpu_slots: tuple[GpuSlot, ...] = ()
        self._batcher: Batcher | None = None
        self._batch, self._note = 1, ""
        self.recorded = False
        try:
            with self._device.current():
                self._load(plan, images or kernel_images)
            self._warm_up()
        except driver.Error as error:
            self.close()
            raise EngineUnavailable(f"the engine does not fit this GPU: {said(error)}; free GPU memory") from error
        except EngineFault as error:
            self.close()
            raise EngineUnavailable(f"the engine does not run on this GPU: {error}; build it again") from error
        except BaseException:
            self.close()
            raise
        self._info = RuntimeInfo(
            runtime=plan.key.package,
            version=packages.tensorrt.__version__,
            precision=plan.key.precision,
            device=self._device.name,
            batch=self._batch,
            note=self._note,
        )

    @property
    def info(self) -> RuntimeInfo:
        """What is running."""
        return self._info

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots, usable side by side: `GpuOptions.slots` of them, times the parts in a batch."""
        return self._gpu_slots if self._batcher is None else self._batcher.slots

    @property
    def gpu_slots(self) -> Sequence[GpuSlot]:
        """One per inference in flight, whole batches: for measurements."""
        return self._gpu_slots

    def close(self) -> None:
        """Wait for what was queued, free everything, the last first, and the context; from any thread. Raises nothing.

        What inputs and answers were views of is gone then.
        """
        self._batcher = None
        self._gpu_slots = ()
        self._device.close()

    def _load(self, plan: Plan, images: Callable[[Capability], Iterator[KernelImage]]) -> None:
        """Everything on the device; the context is current."""
        driver, device, options = self._packages.driver, self._device, self._options
        engine = PlannedEngine(self._packages.tensorrt, device, plan.serialised)
        ports = engine.ports(is_cut=plan.stage is not None)
        stage = None
        if plan.stage is not None:
            stage = PatchGmsdStage(driver, device, plan.stage, images(device.capability), batch=ports.batch)
            self._note = stage.origin
        layout = _layout(ports.outputs, with_reconstruction=options.reconstruction)
        self._gpu_slots = tuple(self._new_slot(engine, ports, stage, layout) for _ in range(options.slots))
        self._batch = ports.batch
        if ports.batch > 1:
            self._batcher = Batcher(self._gpu_slots, options.batch_wait_ms / 1000)

    def _new_slot(
        self, engine: PlannedEngine, ports: PlanPorts, stage: PatchGmsdStage | None, layout: AnswerLayout
    ) -> GpuSlot:
        driver, device = self._packages.driver, self._device
        buffers = SlotBuffers(driver, device, ports.input_shape, layout)
        context = engine.new_context()
        device.free_later(context.free)
        context.place("part", buffers.input_address)
        for name in ports.outputs:
            context.place(name, buffers.address(name))
        launches: tuple[ReadyLaunch, ...] = ()
        if stage is not None:
            names = ("reconstruction", "feature_scores", "scores")
            launches = stage.bind({"part": buffers.input_address, **{name: buffers.address(name) for name in names}})
        done = driver.Event(driver.event_flags.DISABLE_TIMING)
        work = SlotWork(driver.Stream(), done, buffers, context, launches)
        return GpuSlot(driver, device, work, self._options.ranges)

    def _warm_up(self) -> None:
        """Run each slot once as it is, record it, and run the recording. Raises EngineFault."""
        recorded = []
        for slot in self._gpu_slots:
            slot.start()
            slot.wait(FIRST_TIMEOUT_S)
            if self._options.graphs and self._packages.graphs is not None:
                recorded.append(slot.record(self._packages.graphs))
            slot.start()
            slot.wait(FIRST_TIMEOUT_S)
        self.recorded = bool(recorded) and all(recorded)


def _layout(outputs: Mapping[str, tuple[int, ...]], *, with_reconstruction: bool) -> AnswerLayout:
    """Scores first, then the map, then what stays on the device."""
    shapes = dict(outputs)
    copied: dict[str, tuple[int, ...]] = {}
    if "feature_scores" in shapes:
        parts, regions = shapes["feature_scores"]
        copied["scores"] = (parts, 1 + regions)
    else:
        copied |= {name: shapes.pop(name) for name in ("part_score", "region_scores")}
    copied["anomaly_map"] = shapes.pop("anomaly_map")
    if with_reconstruction and "reconstruction" in shapes:
        copied["reconstruction"] = shapes.pop("reconstruction")
    return lay_out(copied, shapes)
