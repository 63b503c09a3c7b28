"""Typed ONNX -> serialised plan, by TensorRT or TensorRT for RTX: strongly typed, with a timing cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from engines.errors import EngineUnavailable, one_line

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""
RTX: Final = "tensorrt_rtx"
"""Its kernels are chosen where they run: it knows no timing cache, and warns of the calls."""
WORKSPACE_BYTES: Final = 2**30
"""Scratch that the fastest kernels may ask for while they run; networks of this size need far less."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the parser understood it: its type by TensorRT's name (FLOAT, UINT8), its shape."""

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A serialised plan, its ports, and what the builder measured, for the next build (empty: the package does not)."""

    serialised: bytes
    ports: dict[str, Port]
    timing: bytes


def build_plan(
    trt: ModuleType,
    model: bytes,
    *,
    timing: bytes = b"",
    capabilities: Sequence[int] = (),
    progress: Progress = lambda what, done, total: None,
) -> BuiltPlan:
    """Build a plan from a typed ONNX model by the module `trt` (tensorrt 10 or 11, or tensorrt_rtx).

    timing: of an earlier build. capabilities: compute capabilities to build for (86 for 8.6) by TensorRT for RTX, which
    needs no GPU for it; none: this machine's GPU. Blocks for seconds to minutes; the builder's threads call `progress`.
    Raises EngineUnavailable with the builder's own reason in one line.
    """
    log = _listen(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # pybind11: the factory gave nothing
        raise _refused("the builder cannot start", log) from error
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        told = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        raise _refused("the parser refuses the graph", log, told)
    config = builder.create_builder_config()
    cache = _configure(trt, config, timing)
    if capabilities:
        _target(trt, config, capabilities)
    config.progress_monitor = _watch(trt, progress)
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise _refused("no engine can be built for the graph", log)
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    ports = {tensor.name: Port(tensor.dtype.name, tuple(tensor.shape)) for tensor in tensors}
    return BuiltPlan(bytes(serialised), ports, b"" if cache is None else bytes(cache.serialize()))


def _strongly_typed(trt: ModuleType) -> int:
    """The creation flags: in TensorRT 10 networks are strongly typed where it is asked for, later always."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: ModuleType, config: Any, timing: bytes) -> Any:
    """float32 is float32 (no TF32); the timing cache, None where the package has none."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if trt.__name__ == RTX:
        return None
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # of another driver, or damaged: measured anew
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _target(trt: ModuleType, config: Any, capabilities: Sequence[int]) -> None:
    known = getattr(trt, "ComputeCapability", None)  # TensorRT for RTX alone has it
    config.num_compute_capabilities = len(capabilities)
    for index, sm in enumerate(capabilities):
        capability = getattr(known, f"SM{sm}", None)
        if capability is None:
            raise EngineUnavailable(f"{trt.__name__} {trt.__version__} cannot build ahead of time for SM {sm}")
        config.set_compute_capability(capability, index)


def _listen(trt: ModuleType) -> Any:
    """A logger that keeps the errors' texts in `errors`. Its class can be made only once the package is there."""

    def initialise(self: Any) -> None:
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self: Any, severity: Any, message: str) -> None:
        if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
            self.errors.append(message)

    return type("Listener", (trt.ILogger,), {"__init__": initialise, "log": log})()


def _watch(trt: ModuleType, progress: Progress) -> Any:
    """A progress monitor that tells the outermost phase: the steps of those within overlap."""

    def initialise(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)
        self.phases = {}

    def phase_start(self: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        if not parent_phase:
            self.phases[phase_name] = num_steps
            progress("build", 0, num_steps)

    def step_complete(self: Any, phase_name: str, step: int) -> bool:
        if phase_name in self.phases:
            progress("build", min(step + 1, self.phases[phase_name]), self.phases[phase_name])
        return True

    def phase_finish(self: Any, phase_name: str) -> None:
        if phase_name in self.phases:
            progress("build", self.phases[phase_name], self.phases[phase_name])

    members = {
        "__init__": initialise,
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return type("Watcher", (trt.IProgressMonitor,), members)()


def _refused(what: str, log: Any, more: list[str] | None = None) -> EngineUnavailable:
    """The first reason that the package gave; those after it are its consequences."""
    reasons = [one_line(text).strip(" :") for text in [*(more or []), *log.errors] if text.strip()]
    return EngineUnavailable(f"{what}: {reasons[0] if reasons else 'it gave no reason; see nvidia-smi'}")
