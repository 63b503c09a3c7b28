"""The Patch_GMSD kernels on the slot's stream: between the plan's last layer and the copy to the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engines.errors import EngineUnavailable
from engines.kernels import ABI, KernelImage, Launch, PatchGmsdPlan
from engines.plans import PatchStage
from engines.runtimes.gpu.buffers import allocate
from engines.runtimes.gpu.device import GpuDevice, said
from engines.runtimes.gpu.surface import CudaDriver, Function, Module, Stream


@dataclass(frozen=True, slots=True)
class ReadyLaunch:
    """One launch with all of its arguments; nothing is left to be decided per part."""

    function: Function
    launch: Launch
    addresses: tuple[int, ...]

    def enqueue(self, stream: Stream) -> None:
        """Queue it. Raises driver.Error."""
        self.function.prepared_async_call(
            self.launch.grid, self.launch.block, stream, *self.addresses, shared_size=self.launch.shared_bytes
        )


def kernel_plan(stage: PatchStage, parts: int) -> PatchGmsdPlan:
    """The kernels' tables and launches of a station, for that many parts at once. Raises ValueError without patches."""
    return PatchGmsdPlan(
        stage.canvas,
        stage.regions,
        stage.patch_gmsd,
        lambdas=stage.lambdas,
        patch_factors=stage.patch_factor,
        combine=stage.combine,
        most_parts=parts,
    )


class PatchGmsdStage:
    """The kernels and tables of one station on the device; each slot binds launches of its own to its own memory."""

    def __init__(
        self, driver: CudaDriver, device: GpuDevice, stage: PatchStage, images: Iterator[KernelImage], *, batch: int
    ) -> None:
        """Load the first of `images` that the driver takes, and copy the tables; the context must be current.

        Raises EngineUnavailable where it takes none, driver.Error, ValueError for a stage that has no patches.
        """
        self._driver, self._device, self._batch = driver, device, batch
        self._plan = kernel_plan(stage, batch)
        self._module: Module | None = None
        self._functions: dict[str, Function] = {}
        device.free_later(self._unload)
        self.origin = self._load(images)
        """Which machine code runs, and why no other; one line."""
        self._tables = allocate(driver, device, self._plan.tables.nbytes)
        self._constants = allocate(driver, device, self._plan.constants.nbytes)
        driver.memcpy_htod(self._tables, self._plan.tables)
        driver.memcpy_htod(self._constants, self._plan.constants)

    def bind(self, addresses: Mapping[str, int]) -> tuple[ReadyLaunch, ...]:
        """Launches for one slot: `addresses` of part, reconstruction, feature_scores and scores; allocates scratch.

        Raises driver.Error.
        """
        scratch = {"workspace": self._plan.workspace_bytes, "distances": self._plan.distances_bytes}
        places = {name: allocate(self._driver, self._device, size) if size else 0 for name, size in scratch.items()}
        all_places = {**addresses, **places, "tables": self._tables, "constants": self._constants}
        return tuple(
            ReadyLaunch(
                self._functions[launch.kernel.name],
                launch,
                tuple(all_places[argument] for argument in launch.kernel.arguments),
            )
            for launch in self._plan.launches(self._batch)
        )

    def _load(self, images: Iterator[KernelImage]) -> str:
        """Module and functions: with lazy loading the driver may find only at the latter that it has no code."""
        refusals: list[str] = []
        try:
            for image in images:
                try:
                    self._module = self._driver.module_from_buffer(image.code)
                    for kernel in ABI:
                        function = self._functions[kernel.name] = self._module.get_function(kernel.name)
                        function.prepare("P" * len(kernel.arguments))
                except self._driver.Error as error:
                    self._unload()
                    refusals.append(f"the driver refuses {image.origin} ({said(error)})")
                else:
                    return f"kernels {image.origin}" + "".join(f", because {refusal}" for refusal in refusals)
        except EngineUnavailable as error:
            refusals.append(str(error))
            raise EngineUnavailable("; ".join(refusals)) from error
        raise EngineUnavailable("; ".join([*refusals, "update the NVIDIA driver, see nvidia-smi"]))

    def _unload(self) -> None:
        self._functions.clear()
        self._module = None
