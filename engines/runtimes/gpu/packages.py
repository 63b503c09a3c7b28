"""The packages of the GPU path, imported only where a station asks for it; tests hand in fakes instead."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Final, Literal, cast

from engines.errors import EngineUnavailable, one_line
from engines.runtimes.gpu.surface import CudaDriver, GraphDriver, TensorRt

PlanPackage = Literal["tensorrt", "tensorrt_rtx"]
OLDEST_TENSORRT: Final = 10
REMEDY: Final = "pip install 'inspectd[gpu]' and a driver, or set engine.runtime: openvino"


@dataclass(frozen=True, slots=True)
class GpuPackages:
    """What the TensorRT runtime calls; graphs: None where CUDA graphs cannot be captured (cuda-bindings is missing)."""

    driver: CudaDriver
    tensorrt: TensorRt
    graphs: GraphDriver | None


def import_gpu_packages(package: PlanPackage = "tensorrt") -> GpuPackages:
    """Import PyCUDA, TensorRT (or TensorRT for RTX) and, where it is installed, cuda-bindings; opens no device.

    Raises EngineUnavailable, one line that says which package or library is missing, or too old.
    """
    driver = _import("pycuda.driver", "PyCUDA")
    tensorrt = _import(package, "TensorRT")
    version = str(tensorrt.__version__)
    if package == "tensorrt" and int(version.split(".", maxsplit=1)[0]) < OLDEST_TENSORRT:
        raise EngineUnavailable(f"TensorRT {version} is too old, at least {OLDEST_TENSORRT}.0 is needed: {REMEDY}")
    try:
        graphs: ModuleType | None = import_module("cuda.bindings.driver")
    except ImportError:
        graphs = None
    return GpuPackages(cast(CudaDriver, driver), cast(TensorRt, tensorrt), cast("GraphDriver | None", graphs))


def _import(name: str, what: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise EngineUnavailable(f"{what} cannot be imported ({one_line(str(error))}): {REMEDY}") from error
