"""What the tests over the FAKE CUDA driver and the FAKE TensorRT share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from fake_tensorrt import fake_packages
from gpu_assertions import assert_nothing_left
from host_kernel import host_images, host_library
from tiny_plan import tiny_plan

from engines.plans import Plan
from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

Make = Callable[..., TensorRtRuntime]
DEFAULTS = GpuOptions()


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernels' text compiled for the CPU: its path stands for the fat binary."""
    return bytes(host_library(tmp_path_factory.mktemp("kernels")))


@pytest.fixture
def fake() -> SimpleNamespace:
    """The fake machine: `cuda`, `tensorrt`, `packages`."""
    return fake_packages()


@pytest.fixture
def make(fake: SimpleNamespace, kernels: bytes) -> Iterator[Make]:
    """Makes runtimes on the fake machine; in the end each is closed, and nothing may be left."""
    made: list[TensorRtRuntime] = []

    def new(plan: Plan | None = None, options: GpuOptions = DEFAULTS) -> TensorRtRuntime:
        made.append(TensorRtRuntime(plan or tiny_plan(), fake.packages, options, images=host_images(kernels)))
        return made[-1]

    yield new
    for runtime in made:
        runtime.close()
    assert_nothing_left(fake)
