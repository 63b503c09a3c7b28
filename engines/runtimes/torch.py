"""The torch runtime: the trained network itself, the reference that every compiled engine is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineFault, EngineTimeout, EngineUnavailable
from engines.runtimes import Outputs, RuntimeInfo

if TYPE_CHECKING:
    from engines.networks.fused import FusedEngine


class TorchSlot:
    """One part in flight. The network runs on the runtime's worker thread, so that `wait` can give up on it."""

    def __init__(self, network: FusedEngine, worker: ThreadPoolExecutor) -> None:
        self._network = network
        self._worker = worker
        self._input: NDArray[np.uint8] = np.zeros((network.canvas.height_px, network.canvas.width_px, 3), np.uint8)
        self._running: Future[Outputs] | None = None
        self._started = False

    @property
    def input(self) -> NDArray[np.uint8]:
        """The (H, W, 3) uint8 RGB buffer that the network reads in place."""
        return self._input

    def start(self) -> None:
        """Begin the inference and return at once. Raises EngineFault, also while a timed-out one still runs."""
        if self._running is not None and not self._running.done():
            raise EngineFault("the inference could not be started: the one before still runs")
        try:
            self._running = self._worker.submit(self._infer)
        except RuntimeError as error:
            raise EngineFault(f"the inference could not be started: {error}") from error
        self._started = True

    def wait(self, timeout_s: float) -> Outputs:
        """Block until the answer is there. Raises EngineFault, EngineTimeout when it is late.

        Torch cannot cancel: a timed-out inference runs to its end, and the slot takes parts again after that.
        """
        if not self._started or self._running is None:
            raise EngineFault("the slot was not started")
        self._started = False
        if not wait([self._running], max(0.0, timeout_s)).done:
            raise EngineTimeout(f"the inference did not end within {timeout_s * 1000:.0f} ms")
        try:
            return self._running.result()
        except RuntimeError as error:
            raise EngineFault(f"the inference failed: {str(error).splitlines()[0]}") from error

    def _infer(self) -> Outputs:
        import torch

        with torch.inference_mode():
            outputs = [output[0].numpy() for output in self._network(torch.from_numpy(self._input[None]))]
        reconstruction = outputs[3] if len(outputs) == 4 else None
        return Outputs(float(outputs[0]), outputs[1], outputs[2], reconstruction)


class TorchRuntime:
    """The trained network in f32 on the CPU."""

    def __init__(self, network: Path, threads: int = 1, slots: int = 1) -> None:
        """Read `network` (safetensors, as `save_fused` writes it); `threads` 0 means one per core.

        Torch's thread count belongs to the process: the last runtime made sets it. Blocks for about a second. Raises
        EngineUnavailable without torch, BundleError for a file that is not a trained network.
        """
        if slots < 1 or threads < 0:
            raise ValueError(f"slots {slots} and threads {threads}: at least 1 and 0")
        try:
            import torch

            from engines.networks.fused import load_fused
        except ImportError as error:
            raise EngineUnavailable(
                f"the torch runtime cannot be imported ({error}): pip install 'inspectd[calibrate]', "
                "or set engine.runtime: openvino"
            ) from error
        torch.set_num_threads(threads or torch.get_num_threads())
        loaded = load_fused(network)
        self._worker = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="torch-runtime")
        self._slots: tuple[TorchSlot, ...] = tuple(TorchSlot(loaded, self._worker) for _ in range(slots))
        self._info = RuntimeInfo(runtime="torch", version=torch.__version__, precision="f32", device="CPU")

    @property
    def info(self) -> RuntimeInfo:
        """What is running."""
        return self._info

    @property
    def slots(self) -> Sequence[TorchSlot]:
        """The slots, usable side by side."""
        return self._slots

    def close(self) -> None:
        """Wait for what still runs and free the network; the slots are unusable afterwards."""
        self._worker.shutdown()
        self._slots = ()
