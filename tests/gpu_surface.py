"""Names of PyCUDA, TensorRT and cuda-bindings: those that the GPU path uses, those that a package lacks. No test."""

from __future__ import annotations

from typing import Any

from engines.runtimes.gpu import surface

DRIVER, TENSORRT, GRAPHS = "pycuda.driver", "tensorrt", "cuda.bindings.driver"
CLASSES: dict[str, dict[type, str]] = {
    DRIVER: {
        surface.CudaDriver: "",
        surface.ContextClass: "Context",
        surface.Context: "Context",
        surface.Device: "Device",
        surface.Stream: "Stream",
        surface.Event: "Event",
        surface.DeviceMemory: "DeviceAllocation",
        surface.PageLockedMemory: "PagelockedHostAllocation",
        surface.Function: "Function",
        surface.Module: "Module",
        surface.ContextFlags: "ctx_flags",
        surface.EventFlags: "event_flags",
    },
    TENSORRT: {
        surface.TensorRt: "",
        surface.PlanRuntime: "Runtime",
        surface.CudaEngine: "ICudaEngine",
        surface.ExecutionContext: "IExecutionContext",
        surface.DataTypes: "DataType",
        surface.TensorModes: "TensorIOMode",
        surface.LoggerClass: "ILogger",
        surface.Severities: "ILogger.Severity",
    },
    GRAPHS: {
        surface.GraphDriver: "",
        surface.GraphResults: "CUresult",
        surface.CaptureModes: "CUstreamCaptureMode",
    },
}
"""Each class of surface.py, and where its package has it; "": in the module itself."""
_OWN = ("__int__", "__version__")


def used(package: str) -> dict[str, set[str]]:
    """Class of the package ("": the module) -> names that the GPU path uses of it."""
    names: dict[str, set[str]] = {}
    for protocol, where in CLASSES[package].items():
        members = {*vars(protocol), *getattr(protocol, "__annotations__", {})}
        names.setdefault(where, set()).update(name for name in members if not name.startswith("_") or name in _OWN)
    return names


def missing(module: Any, package: str) -> list[str]:
    """Names that the GPU path uses and the module, real or fake, has not."""
    found = []
    for where, names in used(package).items():
        owner = module
        for step in filter(None, where.split(".")):
            owner = getattr(owner, step, None)
        found += [f"{where}.{name}".lstrip(".") for name in sorted(names) if not hasattr(owner, name)]
    return found
