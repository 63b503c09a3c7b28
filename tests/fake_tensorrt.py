"""A FAKE TensorRT over the fake CUDA driver: a "plan" is an ONNX model, which OpenVINO runs in f32. Not a test.

It proves nothing of TensorRT's numerics, speed or memory; it knows the names of engines/runtimes/gpu/surface.py.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from fake_cuda import ALIGNMENT, FakeCuda
from fake_cuda_errors import CudaError, Misuse
from numpy.typing import NDArray

from engines.runtimes.gpu.packages import GpuPackages
from engines.runtimes.openvino import openvino_core


class DataType(Enum):
    """tensorrt.DataType."""

    FLOAT = 0
    UINT8 = 5


class TensorIOMode(Enum):
    """tensorrt.TensorIOMode."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Severity(Enum):
    """tensorrt.ILogger.Severity."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    """tensorrt.ILogger."""

    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        """To be overridden."""
        raise NotImplementedError


TYPES = {"f32": DataType.FLOAT, "u8": DataType.UINT8}
F32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
NUMPY = {DataType.FLOAT: np.dtype(np.float32), DataType.UINT8: np.dtype(np.uint8)}


class FakeTensorRt:
    """The module. fail: names of calls that give None or False, with `why` in the logger."""

    __version__ = "11.4.0.fake"
    ILogger = ILogger
    DataType = DataType
    TensorIOMode = TensorIOMode

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.cannot_start = False
        self.fail: set[str] = set()
        self.why = "injected: TensorRT says no"
        self.alive: set[str] = set()

    def Runtime(self, logger: ILogger) -> Runtime:  # noqa: N802
        """tensorrt.Runtime."""
        if self.cannot_start:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self, logger)

    def refuses(self, name: str, logger: ILogger) -> bool:
        """Whether a call is to fail; says so in the logger."""
        try:
            self.cuda.call(name)
        except CudaError:
            logger.log(Severity.ERROR, f"injected: {name}")
            return True
        if name in self.fail:
            logger.log(Severity.ERROR, self.why)
        return name in self.fail


class _Alive:
    """Counted while it lives: TensorRT frees by reference."""

    def __init__(self, tensorrt: FakeTensorRt, name: str) -> None:
        self._mark = f"{name} {tensorrt.cuda.new_number()}"
        self._tensorrt = tensorrt
        tensorrt.alive.add(self._mark)

    def __del__(self) -> None:
        self._tensorrt.alive.discard(self._mark)


class Runtime(_Alive):
    """tensorrt.Runtime."""

    def __init__(self, tensorrt: FakeTensorRt, logger: ILogger) -> None:
        super().__init__(tensorrt, "Runtime")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        """The engine, or None."""
        if self._tensorrt.refuses("deserialize_cuda_engine", self._logger):
            return None
        return Engine(self._tensorrt, self._logger, serialized_engine)


@lru_cache(maxsize=8)
def compiled(model: bytes) -> tuple[Any, int]:
    """The graph in OpenVINO.

    OpenVINO 2026.4 joins the arithmetic behind a ReduceMax to it, and then gives the parts of a batch wrong scores; it
    does not where the highest value is an output, too.
    """
    core = openvino_core()
    graph = core.read_model(model=model)
    highest = [node.output(0) for node in graph.get_ops() if node.get_type_name() == "ReduceMax"]
    inner = [port for port in highest if all(to.get_node().get_type_name() != "Result" for to in port.target_inputs)]
    graph.add_outputs(inner)
    return core.compile_model(graph, "CPU", F32), len(graph.outputs) - len(inner)


class Engine(_Alive):
    """tensorrt.ICudaEngine."""

    def __init__(self, tensorrt: FakeTensorRt, logger: ILogger, model: bytes) -> None:
        super().__init__(tensorrt, "ICudaEngine")
        self._logger = logger
        self._compiled, count = compiled(model)
        self.inputs = [port.any_name for port in self._compiled.inputs]
        names = [port.name for port in onnx.load_from_string(model).graph.output]
        outputs = {name: port for port in self._compiled.outputs[:count] for name in names if name in port.names}
        self.ports = {self.inputs[0]: self._compiled.inputs[0], **outputs}

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self.ports)

    def get_tensor_name(self, index: int) -> str:
        """Inputs first."""
        return list(self.ports)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where it is open."""
        shape = self.ports[name].partial_shape
        return tuple(side.get_length() if side.is_static else -1 for side in shape)

    def get_tensor_dtype(self, name: str) -> DataType | None:
        """None for types that the fake does not know."""
        return TYPES.get(self.ports[name].element_type.type_name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Input or output."""
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def create_execution_context(self) -> ExecutionContext | None:
        """A context, or None."""
        if self._tensorrt.refuses("create_execution_context", self._logger):
            return None
        return ExecutionContext(self._tensorrt, self._logger, self)

    def infer(self, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output for these inputs; not a name of TensorRT's."""
        answer = self._compiled(given)
        return {name: answer[port] for name, port in self.ports.items() if name not in self.inputs}


class ExecutionContext(_Alive):
    """tensorrt.IExecutionContext."""

    def __init__(self, tensorrt: FakeTensorRt, logger: ILogger, engine: Engine) -> None:
        super().__init__(tensorrt, "IExecutionContext")
        self._logger, self._engine = logger, engine
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Take it, if it is aligned."""
        if self._tensorrt.refuses("set_tensor_address", self._logger) or name not in self._engine.ports:
            return False
        if memory % ALIGNMENT:
            raise Misuse(f"{name}: address {memory:#x} is not aligned to {ALIGNMENT} bytes")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue one inference."""
        if self._tensorrt.refuses("execute_async_v3", self._logger):
            return False
        if set(self._addresses) != set(self._engine.ports):
            raise Misuse(f"no address for {set(self._engine.ports) - set(self._addresses)}")
        self._tensorrt.cuda.streams[stream_handle].add("execute_async_v3", self._infer)
        return True

    def _infer(self) -> None:
        self._tensorrt.cuda.infers()
        answers = self._engine.infer({name: self._tensor(name) for name in self._engine.inputs})
        for name, value in answers.items():
            np.copyto(self._tensor(name), value, casting="no")

    def _tensor(self, name: str) -> NDArray[Any]:
        shape, dtype = self._engine.get_tensor_shape(name), self._engine.get_tensor_dtype(name)
        kind = NUMPY[dtype]  # type: ignore[index]
        size = int(np.prod(shape)) * kind.itemsize
        return self._tensorrt.cuda.memory(self._addresses[name], size).view(kind).reshape(shape)


def fake_packages() -> SimpleNamespace:
    """Both fakes, and the GpuPackages made of them."""
    cuda = FakeCuda()
    tensorrt = FakeTensorRt(cuda)
    return SimpleNamespace(cuda=cuda, tensorrt=tensorrt, packages=GpuPackages(cuda.driver, tensorrt, cuda.graphs))
