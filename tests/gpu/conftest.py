"""The machine of the GPU tests: its card, its TensorRT. Without them each test is skipped, and says what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from engines.errors import EngineUnavailable
from engines.gpu import Gpu, TensorRt, find_gpu, import_tensorrt
from engines.plans import PatchStage, Plan, PlanKey, PlanPrecision
from engines.runtimes.gpu.packages import GpuPackages, gpu_packages
from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu_path"))


@dataclass(frozen=True, slots=True)
class Machine:
    """A card that can run plans."""

    gpu: Gpu
    tensorrt: TensorRt
    packages: GpuPackages

    def plan(self, model: bytes, stage: PatchStage | None, precision: PlanPrecision = "f32") -> Plan:
        """Build a typed ONNX model for this card."""
        from engines.compilation.gpu.build import build_plan

        made = self.tensorrt
        key = PlanKey(
            graph_sha256="0" * 64,
            gpu=self.gpu.name,
            sm=self.gpu.sm,
            package=made.package,
            version=made.version,
            precision=precision,
        )
        return Plan(key, build_plan(made.module, model).serialised, stage)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """This machine, or a skip with the reason."""
    try:
        tensorrt = import_tensorrt()
        return Machine(find_gpu(), tensorrt, gpu_packages(tensorrt.module))
    except EngineUnavailable as error:
        pytest.skip(f"no GPU path on this machine: {error}")


@pytest.fixture
def load(machine: Machine) -> Iterator[Callable[..., TensorRtRuntime]]:
    """Loads plans; closed at the end of the test."""
    with ExitStack() as at_end:

        def new(plan: Plan, options: GpuOptions | None = None) -> TensorRtRuntime:
            runtime = TensorRtRuntime(plan, machine.packages, options or GpuOptions())
            at_end.callback(runtime.close)
            return runtime

        yield new
