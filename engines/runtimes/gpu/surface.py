"""Every name of PyCUDA, TensorRT and cuda-bindings that the GPU path uses: mypy allows it no other.

tests/unit/gpu checks this list against the real packages where they can be imported, and the fakes against this list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Context(Protocol):
    """pycuda.driver.Context: a device's memory and work; current in the threads that pushed it."""

    def push(self) -> None:
        """Make it current in this thread."""

    def detach(self) -> None:
        """Destroy it, and all that still lives in it; it must be current."""


class Device(Protocol):
    """pycuda.driver.Device."""

    def name(self) -> str:
        """The card's name."""

    def compute_capability(self) -> tuple[int, int]:
        """Major and minor."""

    def make_context(self, flags: int = 0) -> Context:
        """A new context, current in this thread."""


class Stream(Protocol):
    """pycuda.driver.Stream: work in order."""

    @property
    def handle(self) -> int:
        """The CUstream, for those who take it as a number."""

    def synchronize(self) -> None:
        """Block until all of its work is done."""


class Event(Protocol):
    """pycuda.driver.Event."""

    def record(self, stream: Stream) -> Event:
        """Mark this place in the stream's work."""

    def query(self) -> bool:
        """Whether the work before the mark is done. Raises driver.Error where it failed."""

    def time_since(self, event: Event) -> float:
        """Milliseconds from the other event to this one; both made with timing."""


class DeviceMemory(Protocol):
    """pycuda.driver.DeviceAllocation."""

    def __int__(self) -> int:
        """Its address."""

    def free(self) -> None:
        """Give it back."""


class PageLockedMemory(Protocol):
    """pycuda.driver.PagelockedHostAllocation: the base of what `pagelocked_empty` returns."""

    def free(self) -> None:
        """Give it back: views of it must not be touched any more."""


class Function(Protocol):
    """pycuda.driver.Function: a kernel."""

    def prepare(self, arg_types: str) -> Function:
        """State the arguments' types, as `struct` spells them; P: a pointer."""

    def prepared_async_call(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], stream: Stream, *args: int, shared_size: int = 0
    ) -> None:
        """Queue one launch."""


class Module(Protocol):
    """pycuda.driver.Module: loaded kernels, unloaded with the last reference."""

    def get_function(self, name: str) -> Function:
        """The kernel of that name."""


class ContextFlags(Protocol):
    """pycuda.driver.ctx_flags."""

    SCHED_AUTO: int


class EventFlags(Protocol):
    """pycuda.driver.event_flags."""

    DEFAULT: int
    DISABLE_TIMING: int


class ContextClass(Protocol):
    """The class pycuda.driver.Context itself."""

    @staticmethod
    def pop() -> None:
        """Take the thread's current context off."""


AStream = Stream
AnEvent = Event
ADevice = Device
"""Under names that the class below does not use for its members."""


class CudaDriver(Protocol):
    """The module pycuda.driver."""

    Error: type[Exception]
    Context: ContextClass
    ctx_flags: ContextFlags
    event_flags: EventFlags

    def init(self, flags: int = 0) -> None:
        """Begin to use CUDA in this process."""

    def Device(self, number: int) -> ADevice:  # noqa: N802  (PyCUDA's names)
        """The device of that number."""

    def Stream(self, flags: int = 0) -> AStream:  # noqa: N802
        """A stream of the current context."""

    def Event(self, flags: int = 0) -> AnEvent:  # noqa: N802
        """An event of the current context."""

    def mem_alloc(self, bytes: int) -> DeviceMemory:  # noqa: A002
        """Device memory."""

    def pagelocked_empty(self, shape: Sequence[int], dtype: object, order: str = "C", mem_flags: int = 0) -> Bytes:
        """Page-locked host memory; its `base` frees it."""

    def memcpy_htod(self, dest: int, src: object) -> None:
        """Copy to the device, and wait for it."""

    def memcpy_htod_async(self, dest: int, src: object, stream: AStream) -> None:
        """Queue a copy to the device."""

    def memcpy_dtoh_async(self, dest: object, src: int, stream: AStream) -> None:
        """Queue a copy from the device."""

    def module_from_buffer(self, buffer: bytes) -> Module:
        """Load a cubin, PTX or fat binary."""


class ExecutionContext(Protocol):
    """tensorrt.IExecutionContext: one inference in flight."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies on the device."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue one inference."""


class CudaEngine(Protocol):
    """tensorrt.ICudaEngine: a plan on the device."""

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""

    def get_tensor_name(self, index: int) -> str:
        """Name of one of them."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Its shape; -1 where it is open."""

    def get_tensor_dtype(self, name: str) -> object:
        """One of tensorrt.DataType."""

    def get_tensor_mode(self, name: str) -> object:
        """One of tensorrt.TensorIOMode."""

    def create_execution_context(self) -> ExecutionContext | None:
        """Memory for one inference in flight; None where there is not enough."""


class PlanRuntime(Protocol):
    """tensorrt.Runtime."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None:
        """The engine of a plan; None, and a line in the logger, where it cannot be used here."""


class DataTypes(Protocol):
    """tensorrt.DataType."""

    FLOAT: object
    UINT8: object


class TensorModes(Protocol):
    """tensorrt.TensorIOMode."""

    INPUT: object
    OUTPUT: object


class Severities(Protocol):
    """tensorrt.ILogger.Severity."""

    INTERNAL_ERROR: object
    ERROR: object


class LoggerClass(Protocol):
    """The class tensorrt.ILogger, to be derived from."""

    Severity: Severities

    def log(self, severity: object, msg: str) -> None:
        """Called by TensorRT, from threads of its own, too."""


class TensorRt(Protocol):
    """The module tensorrt, 11 or 10, or tensorrt_rtx."""

    __version__: str
    ILogger: Any
    """A LoggerClass, which mypy would not let anybody derive from."""
    DataType: DataTypes
    TensorIOMode: TensorModes

    def Runtime(self, logger: object) -> PlanRuntime:  # noqa: N802  (TensorRT's name)
        """What reads plans."""


class GraphResults(Protocol):
    """cuda.bindings.driver.CUresult."""

    CUDA_SUCCESS: object


class CaptureModes(Protocol):
    """cuda.bindings.driver.CUstreamCaptureMode."""

    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: object


class GraphDriver(Protocol):
    """The module cuda.bindings.driver: CUDA graphs, which PyCUDA has not. Each call returns (CUresult, ...)."""

    CUresult: GraphResults
    CUstreamCaptureMode: CaptureModes

    def CUstream(self, init_value: int) -> object:  # noqa: N802  (the driver's name)
        """A stream by its number."""

    def cuStreamBeginCapture(self, hStream: object, mode: object) -> tuple[Any]:  # noqa: N802, N803
        """From here on the stream records instead of working."""

    def cuStreamEndCapture(self, hStream: object) -> tuple[Any, Any]:  # noqa: N802, N803
        """What was recorded."""

    def cuGraphInstantiate(self, hGraph: object, flags: int) -> tuple[Any, Any]:  # noqa: N802, N803
        """The graph, ready to be launched."""

    def cuGraphLaunch(self, hGraphExec: object, hStream: object) -> tuple[Any]:  # noqa: N802, N803
        """Queue all of it."""

    def cuGraphExecDestroy(self, hGraphExec: object) -> tuple[Any]:  # noqa: N802, N803
        """Free the instance."""

    def cuGraphDestroy(self, hGraph: object) -> tuple[Any]:  # noqa: N802, N803
        """Free the recording."""
