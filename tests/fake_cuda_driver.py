"""The FAKE of pycuda.driver: its module, and what its calls return. Not a test; see fake_cuda.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_cuda_errors import CudaError, Misuse
from host_kernel import HostKernels
from numpy.typing import NDArray

from engines.kernels import KernelAbi, Launch

Bytes = NDArray[np.uint8]
Work = Callable[[], None]


class Context:
    """pycuda.driver.Context."""

    def __init__(self, cuda: Any) -> None:
        self._cuda, self.number = cuda, cuda.new_number()
        cuda.contexts.add(self.number)
        cuda.push(self)

    def push(self) -> None:
        """Make it current in this thread."""
        self._cuda.call("Context.push", needs_context=False, must_work=True)
        self._cuda.push(self)

    def detach(self) -> None:
        """Destroy it."""
        self._cuda.call("Context.detach", must_work=True)
        self._cuda.destroy(self)


class Stream:
    """pycuda.driver.Stream."""

    def __init__(self, cuda: Any) -> None:
        cuda.call("Stream")
        self._cuda, self.handle = cuda, cuda.new_number()
        self.context = cuda.current()
        self.queue: list[tuple[str, Work]] = []
        self.recording: list[tuple[str, Work]] | None = None
        cuda.streams[self.handle] = self

    def add(self, name: str, work: Work) -> None:
        """Queue, or record."""
        (self.queue if self.recording is None else self.recording).append((name, work))

    def synchronize(self) -> None:
        """Do all that is queued."""
        self._cuda.call("Stream.synchronize")
        self.run_to(len(self.queue))

    def run_to(self, count: int) -> None:
        """Do the first `count` things; a failure is the device's end."""
        if self.recording is not None:
            raise Misuse("the host waits for a stream that is recording")
        for name, work in [self.queue.pop(0) for _ in range(count)]:
            try:
                work()
            except CudaError:
                self._cuda.lost = True
                raise
            self._cuda.done.append(name)


class Event:
    """pycuda.driver.Event."""

    def __init__(self, cuda: Any) -> None:
        cuda.call("Event")
        self._cuda, self._stream, self._left = cuda, None, 0
        self._mark: object | None = None

    def record(self, stream: Stream) -> Event:
        """Mark this place."""
        self._cuda.call("Event.record")
        if stream.recording is not None:
            raise Misuse("an event that the host looks at was recorded into a graph")
        self._stream, self._left, self._mark = stream, self._cuda.looks, ("mark", lambda: None)
        stream.queue.append(self._mark)  # type: ignore[arg-type]
        return self

    def query(self) -> bool:
        """Not yet, `looks` times; then what was queued before the mark happens."""
        self._cuda.call("Event.query")
        stream: Stream | None = self._stream
        places = [] if stream is None else [i for i, entry in enumerate(stream.queue) if entry is self._mark]
        if stream is None or not places:
            return True
        self._left -= 1
        if self._left >= 0 or self._cuda.hangs:
            return False
        stream.run_to(places[0] + 1)
        return True

    def time_since(self, event: Event) -> float:
        """No time passes here."""
        self._cuda.call("Event.time_since")
        return 0.0


class DeviceAllocation:
    """pycuda.driver.DeviceAllocation."""

    def __init__(self, cuda: Any, size: int) -> None:
        cuda.call("mem_alloc")
        self._cuda, self._address = cuda, cuda.allocate(size)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        """Give it back."""
        self._cuda.call("DeviceAllocation.free", must_work=True)
        self._cuda.free(self._address)


class PagelockedHostAllocation:
    """pycuda.driver.PagelockedHostAllocation."""

    def __init__(self, cuda: Any, shape: Sequence[int]) -> None:
        cuda.call("pagelocked_empty")
        self._cuda, self._pages = cuda, cuda.lock(shape)
        self.__array_interface__ = self._pages.__array_interface__

    def free(self) -> None:
        """Give it back."""
        self._cuda.call("PagelockedHostAllocation.free", must_work=True)
        self._cuda.unlock(self._pages)


class Function:
    """pycuda.driver.Function."""

    def __init__(self, cuda: Any, kernels: HostKernels, name: str) -> None:
        self._cuda, self._kernels, self._name, self._types = cuda, kernels, name, ""

    def prepare(self, arg_types: str) -> Function:
        """The arguments' types."""
        self._types = arg_types
        return self

    def prepared_async_call(
        self, grid: Sequence[int], block: Sequence[int], stream: Stream, *args: int, shared_size: int = 0
    ) -> None:
        """Queue one launch."""
        self._cuda.call(self._name)
        if self._types != "P" * len(args):
            raise Misuse(f"{self._name}: {len(args)} arguments, prepared for {self._types!r}")
        launch = Launch(KernelAbi(self._name, ()), tuple(grid), tuple(block), shared_size)  # type: ignore[arg-type]
        stream.add(self._name, lambda: self._kernels.launch(launch, args))


class Module:
    """pycuda.driver.Module."""

    def __init__(self, cuda: Any, buffer: bytes) -> None:
        cuda.call("module_from_buffer")
        self._cuda, self._buffer, self._kernels = cuda, buffer, None
        if not cuda.loads_lazily:
            self._load("cuModuleLoadDataEx")

    def get_function(self, name: str) -> Function:
        """The kernel of that name."""
        self._cuda.call("Module.get_function")
        return Function(self._cuda, self._kernels or self._load("cuModuleGetFunction"), name)

    def _load(self, name: str) -> HostKernels:
        if self._buffer in self._cuda.refused:
            raise CudaError(f"{name} failed: no kernel image is available for execution on the device")
        self._kernels = HostKernels(Path(self._buffer.decode()))
        return self._kernels


class Device:
    """pycuda.driver.Device."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def name(self) -> str:
        """Says that it is none."""
        return "fake GPU (no CUDA anywhere)"

    def compute_capability(self) -> tuple[int, int]:
        """That of an A10."""
        return (8, 6)

    def make_context(self, flags: int = 0) -> Context:
        """A context, current in this thread; a lost device works again in it (a real one may need a new process)."""
        self._cuda.lost = False
        self._cuda.call("Device.make_context", needs_context=False)
        return Context(self._cuda)


class Driver:
    """The module."""

    Error = CudaError

    class ctx_flags:  # noqa: N801
        """pycuda.driver.ctx_flags."""

        SCHED_AUTO = 0

    class event_flags:  # noqa: N801
        """pycuda.driver.event_flags."""

        DEFAULT = 0
        DISABLE_TIMING = 2

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.Device = type("Device", (Device,), {"__init__": self._open, "count": staticmethod(lambda: 1)})
        self.Context = type("Context", (Context,), {"pop": staticmethod(self._pop)})

    @property
    def _open(self) -> Callable[..., None]:
        def opened(device: Device, number: int) -> None:
            self._cuda.call("Device", needs_context=False)
            Device.__init__(device, self._cuda)

        return opened

    def _pop(self) -> None:
        self._cuda.call("Context.pop", needs_context=False, must_work=True)
        self._cuda.pop()

    def init(self, flags: int = 0) -> None:
        """pycuda.driver.init."""
        self._cuda.call("init", needs_context=False)

    def Stream(self, flags: int = 0) -> Stream:  # noqa: N802
        """A lazy stream."""
        return Stream(self._cuda)

    def Event(self, flags: int = 0) -> Event:  # noqa: N802
        """An event."""
        return Event(self._cuda)

    def mem_alloc(self, bytes: int) -> DeviceAllocation:  # noqa: A002
        """Poisoned memory between guards."""
        return DeviceAllocation(self._cuda, bytes)

    def pagelocked_empty(self, shape: Sequence[int], dtype: object, order: str = "C", mem_flags: int = 0) -> Bytes:
        """An array whose base frees it."""
        return np.asarray(PagelockedHostAllocation(self._cuda, shape))

    def memcpy_htod(self, dest: int, src: NDArray[Any]) -> None:
        """Copy at once."""
        self._cuda.call("memcpy_htod")
        self._cuda.memory(dest, src.nbytes)[...] = src.reshape(-1).view(np.uint8)

    def memcpy_htod_async(self, dest: int, src: Bytes, stream: Stream) -> None:
        """Queue a copy; what lies in `src` when it happens is copied."""
        self._cuda.call("memcpy_htod_async")
        self._cuda.locked(src)
        target = self._cuda.memory(dest, src.nbytes)
        stream.add("memcpy_htod_async", lambda: np.copyto(target, src.reshape(-1)))

    def memcpy_dtoh_async(self, dest: Bytes, src: int, stream: Stream) -> None:
        """Queue a copy."""
        self._cuda.call("memcpy_dtoh_async")
        self._cuda.locked(dest)
        source = self._cuda.memory(src, dest.nbytes)
        stream.add("memcpy_dtoh_async", lambda: np.copyto(dest, source))

    def module_from_buffer(self, buffer: bytes) -> Module:
        """The "fat binary" is the path of the kernels' host library."""
        return Module(self._cuda, buffer)
