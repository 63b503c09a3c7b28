"""The OpenVINO runtime: one compiled engine on the CPU, each slot with its own request and preallocated buffers."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineFault, EngineTimeout, EngineUnavailable
from engines.runtimes import Outputs, RuntimeInfo

if TYPE_CHECKING:
    from openvino import CompiledModel, ConstOutput, Core, InferRequest, Model

Precision = Literal["f32", "bf16", "int8"]
DEVICE: Final = "CPU"
INPUT_NAME: Final = "part"
OUTPUT_NAMES: Final = ("part_score", "region_scores", "anomaly_map", "reconstruction")
"""The names that the fused graph, the compiled engine and this runtime share; the last only with a decoder."""

_HINTS: Final[dict[Precision, str]] = {"f32": "f32", "bf16": "bf16", "int8": "f32"}


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry. Raises EngineUnavailable where OpenVINO is not installed.

    `import openvino` reports to a web service through `openvino_telemetry`, from a forked process, unless a file in the
    user's home says otherwise. A None in `sys.modules` makes that import fail, which OpenVINO and NNCF both
    handle by using their own stub; nothing is forked, written or sent (docs/engine.md).
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise EngineUnavailable(
            f"OpenVINO cannot be imported ({error}): pip install openvino, or set engine.runtime: torch"
        ) from error


@cache
def openvino_core() -> Core:
    """OpenVINO's core, one for the process, which lives as long as that. Raises EngineUnavailable.

    The plugin for processors gives the thread that compiles a stack for signal handlers, and frees it together with
    the last that uses the plugin, in whichever thread that happens: the next signal was a segmentation fault.
    """
    core: Core = import_openvino().Core()
    core.set_property({"ENABLE_MMAP": False})  # whatever happens to a file later, an engine stays what it is
    return core


def parse_precision(name: str) -> Precision:
    """The precision of that name, as a bundle's manifest spells it. Raises EngineUnavailable."""
    for precision in _HINTS:
        if precision == name:
            return precision
    raise EngineUnavailable(f"precision {name!r} is not one of {', '.join(_HINTS)}: calibrate again with this version")


class OpenVinoSlot:
    """One part in flight: the request's input and outputs live in this slot's NumPy arrays, nothing is copied."""

    def __init__(self, compiled: CompiledModel) -> None:
        ov = import_openvino()
        self._request: InferRequest = compiled.create_infer_request()
        self._started = False
        port = compiled.input(INPUT_NAME)
        batch = np.zeros(tuple(port.shape), dtype=np.uint8)
        self._tensors = [ov.Tensor(batch, shared_memory=True)]
        self._request.set_tensor(port, self._tensors[0])
        self._input: NDArray[np.uint8] = batch[0]
        outputs: dict[str, NDArray[np.float32]] = {}
        for output in compiled.outputs:
            array = np.zeros(tuple(output.shape), dtype=np.float32)
            tensor = ov.Tensor(array, shared_memory=True)
            self._request.set_tensor(output, tensor)
            self._tensors.append(tensor)
            outputs[_name(output)] = array
        self._part_score = outputs["part_score"]
        self._region_scores = outputs["region_scores"][0]
        self._anomaly_map = outputs["anomaly_map"][0]
        self._reconstruction = outputs["reconstruction"][0] if "reconstruction" in outputs else None

    @property
    def input(self) -> NDArray[np.uint8]:
        """The (H, W, 3) uint8 RGB buffer that the engine reads in place."""
        return self._input

    def start(self) -> None:
        """Begin the inference and return at once. Raises EngineFault, also while a timed-out one still runs."""
        try:
            self._request.start_async()
        except RuntimeError as error:
            raise EngineFault(f"the inference could not be started: {_first_line(error)}") from error
        self._started = True

    def wait(self, timeout_s: float) -> Outputs:
        """Block until the answer is there; whole milliseconds, rounded up.

        Raises EngineFault when the inference failed or was never started, EngineTimeout when it did not end within
        `timeout_s`; it is cancelled then, and the slot takes parts again as soon as the running layer has ended.
        """
        if not self._started:
            raise EngineFault("the slot was not started")
        self._started = False
        try:
            finished = self._request.wait_for(max(0, math.ceil(timeout_s * 1000)))
        except RuntimeError as error:
            raise EngineFault(f"the inference failed: {_first_line(error)}") from error
        if not finished:
            self._request.cancel()
            raise EngineTimeout(f"the inference did not end within {timeout_s * 1000:.0f} ms")
        return Outputs(float(self._part_score[0]), self._region_scores, self._anomaly_map, self._reconstruction)


class OpenVinoRuntime:
    """A loaded OpenVINO engine."""

    def __init__(self, model: Path, precision: Precision, threads: int = 1, slots: int = 1) -> None:
        """Read and compile `model` (.xml or .onnx); `threads` 0 means one per core, shared by the `slots`.

        Blocks for as long as the compilation takes (well under a second). Raises EngineUnavailable.
        """
        self._compiled = compile_engine(model, precision, threads=threads, slots=slots)
        self._slots: tuple[OpenVinoSlot, ...] = tuple(OpenVinoSlot(self._compiled) for _ in range(slots))
        self._info = RuntimeInfo(
            runtime="openvino",
            version=import_openvino().get_version(),
            precision=precision,
            device=str(openvino_core().get_property(DEVICE, "FULL_DEVICE_NAME")).strip(),
        )

    @property
    def info(self) -> RuntimeInfo:
        """What is running."""
        return self._info

    @property
    def slots(self) -> Sequence[OpenVinoSlot]:
        """The slots, usable side by side."""
        return self._slots

    def close(self) -> None:
        """Free the engine; the slots are unusable afterwards."""
        self._slots = ()
        del self._compiled


def compile_engine(
    model: Path, precision: Precision, *, threads: int, slots: int = 1, count_layers: bool = False
) -> CompiledModel:
    """Read and compile `model`, as every engine here is; its ports are those of a fused engine.

    count_layers: each request tells afterwards how long each layer took. Raises EngineUnavailable.
    """
    if slots < 1 or threads < 0:
        raise ValueError(f"slots {slots} and threads {threads}: at least 1 and 0")
    core = openvino_core()
    if precision == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable(
            "this CPU has no bf16 arithmetic: calibrate again, here or with engine.precision: f32 or int8"
        )
    config = _config(precision, threads, slots)
    compiled = _compile(core, model, config | {"PERF_COUNT": True} if count_layers else config)
    _check_ports(compiled, model)
    return compiled


def _config(precision: Precision, threads: int, slots: int) -> dict[str, object]:
    """Every property that decides what is computed, and how fast, stated: defaults differ between machines."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "NUM_STREAMS": slots,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": False,
    }


def _compile(core: Core, model: Path, config: dict[str, object]) -> CompiledModel:
    if not model.is_file():
        raise EngineUnavailable(f"{model}: the engine file is missing: calibrate again")
    try:
        read: Model = core.read_model(model)
        return core.compile_model(read, DEVICE, config)
    except RuntimeError as error:
        raise EngineUnavailable(f"{model}: OpenVINO cannot load this engine: {_first_line(error)}") from error


def _check_ports(compiled: CompiledModel, model: Path) -> None:
    """Refuse a graph that is not a fused engine: other names, types or shapes than Slot and Outputs promise."""
    inputs = {port.any_name: tuple(port.shape) for port in compiled.inputs if port.element_type.type_name == "u8"}
    outputs = [_name(port) for port in compiled.outputs if port.element_type.type_name == "f32"]
    shape = inputs.get(INPUT_NAME, ())
    if list(inputs) != [INPUT_NAME] or len(shape) != 4 or shape[0] != 1 or shape[3] != 3:
        raise EngineUnavailable(f"{model}: not an engine: expected one input `part` (1, H, W, 3) uint8, found {inputs}")
    if set(outputs) not in (set(OUTPUT_NAMES), set(OUTPUT_NAMES[:3])) or len(outputs) != len(compiled.outputs):
        raise EngineUnavailable(f"{model}: not an engine: expected outputs {', '.join(OUTPUT_NAMES)}, found {outputs}")


def _name(output: ConstOutput) -> str:
    """The promised name: an output that OpenVINO joined with what it was made of has that one's name, too."""
    return next((name for name in OUTPUT_NAMES if name in output.names), output.any_name)


def _first_line(error: Exception) -> str:
    """The last non-empty line of OpenVINO's several: the earlier ones name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
