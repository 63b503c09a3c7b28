"""One GPU as one engine uses it: a CUDA context of its own, current only while a call needs it, freed in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from engines.errors import EngineFault, EngineUnavailable, one_line
from engines.runtimes.gpu.surface import Context, CudaDriver

MOST_DETAIL: Final = 300
CLOSED: Final = "the engine was closed"


class GpuDevice:
    """A context on one device, and what has to be freed before it, the last first.

    The context is pushed and popped around each use, so that the engine may be loaded, used and closed in different
    threads (not at once): the daemon does all three.
    """

    def __init__(self, driver: CudaDriver, number: int = 0) -> None:
        """Make the context. Raises EngineUnavailable where there is no driver, no such device or no memory."""
        self._driver = driver
        self._held = ExitStack()
        self._settling: list[Callable[[], object]] = []
        self._context: Context | None = None
        try:
            driver.init()
            device = driver.Device(number)
            self.capability = device.compute_capability()
            self.name = str(device.name()).strip()
            self._context = device.make_context(driver.ctx_flags.SCHED_AUTO)
            driver.Context.pop()
        except driver.Error as error:
            self.close()
            raise EngineUnavailable(f"GPU {number} cannot be used: {said(error)}; see nvidia-smi") from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's current one inside. Raises EngineFault after `close`, or where it is lost."""
        context = self._context
        if context is None:
            raise EngineFault(CLOSED)
        try:
            context.push()
        except self._driver.Error as error:
            raise EngineFault(f"the GPU cannot be used any more: {said(error)}") from error
        try:
            yield
        finally:
            try:
                self._driver.Context.pop()
            except self._driver.Error as error:
                raise EngineFault(f"the GPU cannot be used any more: {said(error)}") from error

    @contextmanager
    def faults(self, what: str) -> Iterator[None]:
        """The driver's errors become EngineFault: `what`, then the driver's own words."""
        try:
            yield
        except self._driver.Error as error:
            raise EngineFault(f"{what}: {said(error)}") from error

    def free_later(self, free: Callable[[], object]) -> None:
        """Call `free` in `close`, before everything that was given here earlier."""
        self._held.callback(self._freed, free)

    def settle_first(self, settle: Callable[[], object]) -> None:
        """Call `settle` in `close` before anything is freed: it waits for work that still uses memory."""
        self._settling.append(settle)

    def close(self) -> None:
        """Free what was made with it, the last first, then the context, with all that a lost device left unfreed.

        Blocks until the device is done with what was queued. Raises nothing: what cannot be freed any more goes with
        the context, or with the process.
        """
        context = self._context
        if context is None:
            return
        self._freed(context.push)
        settling, self._settling = self._settling, []
        for settle in settling:
            self._freed(settle)
        settling.clear()
        self._held.close()
        self._context = None
        self._freed(context.detach)

    def _freed(self, call: Callable[[], object]) -> None:
        """One failure keeps nothing else from being freed."""
        try:
            call()
        except self._driver.Error:
            return


def said(error: Exception) -> str:
    """The driver's words on one line."""
    return one_line(str(error))[:MOST_DETAIL] or type(error).__name__
