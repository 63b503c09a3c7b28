"""Every name that the GPU path uses is there: in the FAKES, and in each real package that can be imported here."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gpu_surface
import pytest
from fake_cuda import FakeCuda
from fake_cuda_driver import Device as FakeDevice
from fake_cuda_driver import DeviceAllocation, Event, Function, Module, PagelockedHostAllocation, Stream
from fake_tensorrt import Engine as FakeEngine
from fake_tensorrt import ExecutionContext as FakeExecutionContext
from fake_tensorrt import FakeTensorRt
from fake_tensorrt import Runtime as FakeRuntime

FAKES: dict[str, type] = {
    "Device": FakeDevice,
    "Stream": Stream,
    "Event": Event,
    "DeviceAllocation": DeviceAllocation,
    "PagelockedHostAllocation": PagelockedHostAllocation,
    "Function": Function,
    "Module": Module,
    "Runtime": FakeRuntime,
    "ICudaEngine": FakeEngine,
    "IExecutionContext": FakeExecutionContext,
}


def fakes(package: str) -> Any:
    """The fake of a package."""
    cuda = FakeCuda()
    return {
        gpu_surface.DRIVER: cuda.driver,
        gpu_surface.TENSORRT: FakeTensorRt(cuda),
        gpu_surface.GRAPHS: cuda.graphs,
    }[package]


@pytest.mark.parametrize("package", gpu_surface.CLASSES)
def test_the_fakes_have_what_is_used(package: str) -> None:
    """A fake without a name that the GPU path uses would leave it untested."""
    module = fakes(package)
    for where, names in gpu_surface.used(package).items():
        owner: Any = FAKES.get(where, module)
        for step in where.split(".") if where and where not in FAKES else ():
            owner = getattr(owner, step)
        on_instances = {"handle"} if owner is Stream else set()
        assert [name for name in sorted(names - on_instances) if not hasattr(owner, name)] == [], where


def test_cuda_bindings_has_every_name() -> None:
    """The real cuda.bindings.driver, which needs no driver to be imported."""
    module = pytest.importorskip(gpu_surface.GRAPHS, reason="cuda-bindings is not installed")
    assert gpu_surface.missing(module, gpu_surface.GRAPHS) == []
    for name in ("cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphLaunch", "cuStreamEndCapture"):
        first_line = (getattr(module, name).__doc__ or "").splitlines()[0]
        ours = list(inspect.signature(getattr(type(fakes(gpu_surface.GRAPHS)), name)).parameters)[1:]
        assert first_line.count(",") + 1 == len(ours), first_line


def test_tensorrt_rtx_has_every_name() -> None:
    """The real tensorrt_rtx, which needs no driver to be imported."""
    module = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    assert gpu_surface.missing(module, gpu_surface.TENSORRT) == []


def test_pycuda_has_every_name() -> None:
    """The real pycuda.driver, where PyCUDA and a driver are installed (elsewhere: tests/gpu_path)."""
    try:
        module = importlib.import_module(gpu_surface.DRIVER)
    except ImportError as error:
        pytest.skip(f"PyCUDA cannot be imported: {error}")
    assert gpu_surface.missing(module, gpu_surface.DRIVER) == []
