"""The Patch_GMSD kernels on the slot's stream: between the plan's last layer and the copy to the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.kernels import Launch, PatchGmsdPlan
from engines.plans import PatchStage
from engines.runtimes.gpu.buffers import allocate
from engines.runtimes.gpu.device import GpuDevice
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


class PatchGmsdStage:
    """The kernels and tables of one station on the device; each slot binds launches of its own to its own memory."""

    def __init__(self, driver: CudaDriver, device: GpuDevice, stage: PatchStage, image: bytes, *, batch: int) -> None:
        """Load `image` (cubin, PTX or fat binary) and copy the tables; the context must be current.

        Raises driver.Error, ValueError for a stage that has no patches.
        """
        self._driver, self._device, self._batch = driver, device, batch
        self._plan = PatchGmsdPlan(
            stage.canvas,
            stage.regions,
            stage.patch_gmsd,
            lambdas=stage.lambdas,
            patch_factors=stage.patch_factor,
            combine=stage.combine,
            most_parts=batch,
        )
        self._module: Module | None = None
        self._functions: dict[str, Function] = {}
        device.free_later(self._unload)
        self._module = driver.module_from_buffer(image)
        for launch in self._plan.launches(batch):
            name = launch.kernel.name
            self._functions[name] = self._module.get_function(name)
            self._functions[name].prepare("P" * len(launch.kernel.arguments))
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

    def _unload(self) -> None:
        self._functions.clear()
        self._module = None
