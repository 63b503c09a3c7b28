"""What this machine has for TensorRT: driver, GPU, PyCUDA, TensorRT. Looked for only when asked, never at import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Final, Literal

from engines.errors import EngineUnavailable, one_line

Package = Literal["tensorrt", "tensorrt_rtx"]
PACKAGES: Final[dict[Package, tuple[int, int]]] = {"tensorrt": (10, 0), "tensorrt_rtx": (1, 2)}
"""Packages that can build and run a plan, the preferred first, with the oldest version whose names are used here."""
LEAST_SM: Final = 75
_INSTALL: Final = "pip install 'inspectd[gpu]'"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The device that the engine runs on: its name, and its compute capability, 86 for 8.6."""

    name: str
    sm: int


@dataclass(frozen=True, slots=True)
class TensorRt:
    """The package that builds and runs plans: TensorRT, or TensorRT for RTX, whose names are the same."""

    module: ModuleType
    package: Package
    version: str


def find_gpu() -> Gpu:
    """The first GPU of this machine, through PyCUDA; makes no context. Raises EngineUnavailable in one line."""
    try:
        driver = import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"PyCUDA is not installed (no module {error.name}): {_INSTALL}") from error
    except ImportError as error:  # PyCUDA is there, what it links to is not
        raise EngineUnavailable(f"the NVIDIA driver is missing ({one_line(str(error))}): install the driver") from error
    try:
        driver.init()
        if driver.Device.count() < 1:
            raise EngineUnavailable("the NVIDIA driver finds no GPU: see nvidia-smi")
        device = driver.Device(0)
        major, minor = device.compute_capability()
        gpu = Gpu(one_line(str(device.name())), 10 * int(major) + int(minor))
    except driver.Error as error:
        raise EngineUnavailable(f"the NVIDIA driver finds no GPU ({one_line(str(error))}): see nvidia-smi") from error
    if gpu.sm < LEAST_SM:
        raise EngineUnavailable(f"{gpu.name} has compute capability {gpu.sm / 10:.1f}: at least 7.5 is needed")
    return gpu


def import_tensorrt() -> TensorRt:
    """TensorRT, or TensorRT for RTX where only that is installed. Raises EngineUnavailable in one line."""
    faults = []
    for package, least in PACKAGES.items():
        try:
            module = import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                faults.append(f"{package} cannot be imported (no module {error.name})")
            continue
        except (ImportError, OSError, RuntimeError) as error:  # its libraries are missing, or of another build
            faults.append(f"{package} cannot be imported ({one_line(str(error))})")
            continue
        version = str(module.__version__)
        if _version(version) >= least:
            return TensorRt(module, package, version)
        faults.append(f"{package} {version} is older than {least[0]}.{least[1]}")
    what = "; ".join(faults) or "TensorRT is not installed"
    raise EngineUnavailable(f"{what}: {_INSTALL}")


def _version(text: str) -> tuple[int, int]:
    """Major and minor; zeros where the text has none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
