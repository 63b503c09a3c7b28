"""The packages that the TensorRT runtime calls: imported only where a station asks for it; tests hand in fakes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import cast

from engines.errors import EngineUnavailable, one_line
from engines.runtimes.gpu.surface import CudaDriver, GraphDriver, TensorRt


@dataclass(frozen=True, slots=True)
class GpuPackages:
    """What the TensorRT runtime calls; graphs: None where CUDA graphs cannot be recorded (cuda-bindings is missing)."""

    driver: CudaDriver
    tensorrt: TensorRt
    graphs: GraphDriver | None


def gpu_packages(tensorrt: ModuleType) -> GpuPackages:
    """Import PyCUDA and, where it is installed, cuda-bindings, beside the module that `engines.gpu` found.

    Opens no device. Raises EngineUnavailable, one line, where PyCUDA or the driver's library is missing.
    """
    try:
        driver = import_module("pycuda.driver")
    except ImportError as error:
        raise EngineUnavailable(
            f"PyCUDA cannot be imported ({one_line(str(error))}): pip install 'inspectd[gpu]' and the NVIDIA driver"
        ) from error
    try:
        graphs: ModuleType | None = import_module("cuda.bindings.driver")
    except ImportError:
        graphs = None
    return GpuPackages(cast(CudaDriver, driver), cast(TensorRt, tensorrt), cast("GraphDriver | None", graphs))
