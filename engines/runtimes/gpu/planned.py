"""A plan on the device: deserialised by TensorRT, its inputs and outputs checked, execution contexts made from it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from engines.errors import EngineFault, EngineUnavailable, one_line
from engines.runtimes.gpu.device import CLOSED, MOST_DETAIL, GpuDevice
from engines.runtimes.gpu.surface import CudaEngine, ExecutionContext, TensorRt

INPUT_NAME: Final = "part"
CUT_OUTPUTS: Final = ("feature_scores", "anomaly_map", "reconstruction")
"""Outputs of a graph that was cut before Patch_GMSD."""
WHOLE_OUTPUTS: Final = ("part_score", "region_scores", "anomaly_map")
"""Outputs of a graph that scores alone; a reconstruction may follow."""
KEPT_LINES: Final = 20


class PlanLog:
    """What TensorRT complained of last: it returns None or False, and says why only here."""

    def __init__(self, tensorrt: TensorRt) -> None:
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        base = tensorrt.ILogger
        grave = (base.Severity.ERROR, base.Severity.INTERNAL_ERROR)

        class Logger(base):  # type: ignore[misc, valid-type]  # the package is an argument
            def __init__(self) -> None:
                base.__init__(self)  # the bindings insist on it

            def log(self, severity: Any, msg: str) -> None:
                if severity in grave:
                    lines.append(one_line(msg))

        self._lines = lines
        self.logger: object = Logger()

    def why(self) -> str:
        """The first error since the last time, which the others follow from; forgets them all."""
        first = self._lines[0] if self._lines else "TensorRT does not say why"
        self._lines.clear()
        return first[:MOST_DETAIL]


@dataclass(frozen=True, slots=True)
class PlanPorts:
    """(N, H, W, 3) of the input, N parts in one inference; name -> shape of each output."""

    input_shape: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]

    @property
    def batch(self) -> int:
        """N."""
        return self.input_shape[0]


class PlannedEngine:
    """A deserialised plan, of any network."""

    def __init__(self, tensorrt: TensorRt, device: GpuDevice, serialised: bytes) -> None:
        """Deserialise; the device's context must be current. Raises EngineUnavailable."""
        self._log = PlanLog(tensorrt)
        self._runtime: object | None = None
        self._engine: CudaEngine | None = None
        device.free_later(self._free)
        try:
            runtime = self._runtime = tensorrt.Runtime(self._log.logger)
        except TypeError as error:  # pybind11: the factory gave nothing
            raise EngineUnavailable(f"TensorRT {tensorrt.__version__} cannot start: {self._log.why()}") from error
        self._engine = runtime.deserialize_cuda_engine(serialised)
        del runtime
        if self._engine is None:
            raise EngineUnavailable(
                f"TensorRT {tensorrt.__version__} cannot use this plan: {self._log.why()}; {REMEDY}"
            )
        self._tensorrt = tensorrt

    def ports(self, *, is_cut: bool) -> PlanPorts:
        """Input and outputs of an inspection engine's plan. Raises EngineUnavailable where it is none.

        is_cut: Patch_GMSD follows as a kernel, so that the plan has other outputs.
        """
        if self._engine is None:
            raise EngineUnavailable(CLOSED)
        return _ports(self._tensorrt, self._engine, is_cut=is_cut)

    def new_context(self) -> PlanContext:
        """Memory for one inference in flight. Raises EngineUnavailable where the GPU has too little."""
        context = None if self._engine is None else self._engine.create_execution_context()
        if context is None:
            raise EngineUnavailable(f"TensorRT cannot make an execution context: {self._log.why()}; free GPU memory")
        return PlanContext(context, self._log)

    def _free(self) -> None:
        self._engine = None
        self._runtime = None


class PlanContext:
    """One inference in flight."""

    def __init__(self, context: ExecutionContext, log: PlanLog) -> None:
        self._context: ExecutionContext | None = context
        self._log = log

    def place(self, name: str, address: int) -> None:
        """Say where a tensor lies on the device. Raises EngineUnavailable."""
        if self._context is None or not self._context.set_tensor_address(name, address):
            raise EngineUnavailable(f"TensorRT takes no address for `{name}`: {self._log.why()}; {REMEDY}")

    def enqueue(self, stream_handle: int) -> None:
        """Queue one inference. Raises EngineFault."""
        if self._context is None or not self._context.execute_async_v3(stream_handle):
            raise EngineFault(f"the inference could not be started: {self._log.why()}")

    def free(self) -> None:
        """Give its memory back."""
        self._context = None


REMEDY: Final = "build it again with `inspectd build`"


def _ports(tensorrt: TensorRt, engine: CudaEngine, *, is_cut: bool) -> PlanPorts:
    """Raises EngineUnavailable unless it is a fused engine's plan."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    shapes = {name: tuple(int(side) for side in engine.get_tensor_shape(name)) for name in names}
    inputs = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
    outputs = {name: shape for name, shape in shapes.items() if name not in inputs}
    shape = shapes.get(INPUT_NAME, ())
    if inputs != [INPUT_NAME] or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        found = {name: shapes[name] for name in inputs}
        raise EngineUnavailable(
            f"not an engine's plan: expected one input `part` (N, H, W, 3), found {found}; {REMEDY}"
        )
    expected = (set(CUT_OUTPUTS),) if is_cut else (set(WHOLE_OUTPUTS), {*WHOLE_OUTPUTS, "reconstruction"})
    if set(outputs) not in expected or any(size[:1] != shape[:1] or min(size) < 1 for size in outputs.values()):
        raise EngineUnavailable(f"not an engine's plan: unexpected outputs {outputs}; {REMEDY}")
    wrong = [name for name in outputs if engine.get_tensor_dtype(name) != tensorrt.DataType.FLOAT]
    if wrong or engine.get_tensor_dtype(INPUT_NAME) != tensorrt.DataType.UINT8:
        raise EngineUnavailable(f"not an engine's plan: it must take uint8 and answer in float32; {REMEDY}")
    return PlanPorts(shape, outputs)
