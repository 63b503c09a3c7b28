"""A FAKE CUDA driver: the names of pycuda.driver that the GPU path uses, on the CPU. Not a test.

Device memory is host memory between guards; kernels are their own text through the host shim; streams are LAZY: nothing
happens until somebody looks at an event or waits, so that code which forgets to shows stale bytes. It proves nothing of
a GPU's speed, numerics or limits.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from fake_cuda_driver import Driver
from fake_cuda_errors import CudaError, Misuse
from fake_cuda_graphs import Graphs
from numpy.typing import NDArray

ALIGNMENT = 256
GUARD_BYTES = 256
GUARD, POISON = 0xA5, 0xCD
Bytes = NDArray[np.uint8]


class FakeCuda:
    """One machine with one card. Every call of the driver's is in `calls`, and may be made to fail.

    memory_bytes: of the card. fail_call: this call (counted from 0) raises. looks: how often an event says not yet.
    hangs: no work ever ends. lost: every call that needs a context fails, until there is a new one. lost_at: the
    inference (from 1) at which that happens. can_record: the driver knows CUDA graphs. refused: machine code that the
    driver does not take, when it is loaded, or (lazily) when a kernel of it is asked for.
    """

    def __init__(self, *, memory_bytes: int = 1 << 30) -> None:
        self.memory_bytes = memory_bytes
        self.calls: list[str] = []
        self.fail_call: int | None = None
        self.looks = 1
        self.hangs = self.lost = False
        self.lost_at: int | None = None
        self.inferences = 0
        self.can_record = True
        self.refused: set[bytes] = set()
        self.loads_lazily = False
        self.done: list[str] = []
        self.device: dict[int, Bytes] = {}
        self.pages: dict[int, Bytes] = {}
        self.contexts: set[int] = set()
        self.streams: dict[int, Any] = {}
        self.recordings = 0
        self._numbers = itertools.count(0x1000)
        self._stacks: dict[int, list[Any]] = defaultdict(list)
        self._lock = threading.RLock()
        self.driver: Any = Driver(self)
        self.graphs: Any = Graphs(self)

    def call(self, name: str, *, needs_context: bool = True, must_work: bool = False) -> None:
        """Note a call; fail where that was asked for, or where no context is current."""
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
        if needs_context and not self._stack():
            raise Misuse(f"{name}: no context is current in this thread")
        if (self.lost and needs_context and not must_work) or number == self.fail_call:
            raise CudaError(f"{name} failed: injected, unspecified launch failure")

    def infers(self) -> None:
        """Note an inference; the device may be lost in it."""
        self.inferences += 1
        if self.inferences == self.lost_at:
            raise CudaError("cuEventQuery failed: injected, the device was lost")

    def new_number(self) -> int:
        """A handle."""
        return next(self._numbers)

    def _stack(self) -> list[Any]:
        return self._stacks[threading.get_ident()]

    def current(self) -> Any:
        """This thread's current context, None where there is none."""
        stack = self._stack()
        return stack[-1] if stack else None

    def push(self, context: Any) -> None:
        """Make it current in this thread."""
        self._stack().append(context)

    def pop(self) -> None:
        """Take the top off."""
        if not self._stack():
            raise CudaError("context::pop failed: cannot pop non-current context")
        self._stack().pop()

    def destroy(self, context: Any) -> None:
        """The context must be current; what it still holds was leaked, and stays noted."""
        if not self._stack() or self._stack()[-1] is not context:
            raise Misuse("a context that is not current was destroyed")
        self._stack().pop()
        self.contexts.discard(context.number)

    def allocate(self, size: int) -> int:
        """Poisoned device memory between guards."""
        used = sum(memory.size for memory in self.device.values())
        if used + size > self.memory_bytes or size < 1:
            raise CudaError("cuMemAlloc failed: out of memory")
        whole = np.full(size + 2 * GUARD_BYTES + ALIGNMENT, GUARD, np.uint8)
        start = -(whole.ctypes.data + GUARD_BYTES) % ALIGNMENT + GUARD_BYTES
        memory = whole[start : start + size]
        memory[...] = POISON
        self.device[memory.ctypes.data] = memory
        return int(memory.ctypes.data)

    def free(self, address: int) -> None:
        """Check the guards and forget it."""
        memory = self.device.pop(address, None)
        if memory is None:
            raise Misuse("device memory was freed twice")
        self.check_idle("device memory was freed")
        whole = memory.base
        start = address - whole.ctypes.data
        if (whole[:start] != GUARD).any() or (whole[start + memory.size :] != GUARD).any():
            raise Misuse("something was written beside its memory")

    def check_idle(self, what: str) -> None:
        """Misuse while work is queued in the current context: it could still use what goes."""
        mine = [stream for stream in self.streams.values() if stream.context is self.current()]
        if not self.lost and not self.hangs and any(stream.queue for stream in mine):
            raise Misuse(f"{what} while work is queued")

    def memory(self, address: int, size: int) -> Bytes:
        """Device memory by address. Raises CudaError outside any allocation."""
        for start, memory in self.device.items():
            if start <= address and address + size <= start + memory.size:
                return memory[address - start : address - start + size]
        raise CudaError(f"cuMemcpy failed: invalid argument ({size} bytes leave their allocation)")

    def lock(self, shape: Sequence[int]) -> Bytes:
        """Poisoned page-locked memory."""
        pages = np.full(shape, POISON, np.uint8)
        self.pages[pages.ctypes.data] = pages
        return pages

    def unlock(self, pages: Bytes) -> None:
        """Poison it once more: who still reads it shall notice."""
        self.check_idle("page-locked memory was freed")
        if self.pages.pop(pages.ctypes.data, None) is None:
            raise Misuse("page-locked memory was freed twice")
        pages[...] = POISON

    def locked(self, array: Bytes) -> None:
        """Misuse unless the host array's pages are locked."""
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        if not any(at <= start and end <= at + pages.nbytes for at, pages in self.pages.items()):
            raise Misuse("an asynchronous copy of memory that is not page-locked")

    def leaks(self) -> Counter[str]:
        """What was made and never given back."""
        return +Counter(
            device=len(self.device), pages=len(self.pages), contexts=len(self.contexts), recordings=self.recordings
        )
