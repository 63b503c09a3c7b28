"""On a GPU: build, golden images, verdicts and daemon as users run them; what a card gets back. Skipped without one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_plan import part_images, tiny_plan
from tiny_station import TinyStation, inspectd

from engines.errors import EngineUnavailable
from engines.golden import read_golden
from engines.plans import Plan
from engines.runtimes import infer, load_runtime
from engines.runtimes.tensorrt import TensorRtRuntime
from engines.settings import EngineSettings

if TYPE_CHECKING:
    from conftest import Machine

pytestmark = pytest.mark.gpu
Load = Callable[..., TensorRtRuntime]


@pytest.mark.parametrize(("precision", "batch"), [("f32", 1), ("f16", 1), ("f16", 2)])
def test_verdicts_are_those_of_the_cpu(
    machine: Machine, tiny_station: TinyStation, tmp_path: Path, precision: str, batch: int
) -> None:
    """`inspectd build` accepts the plan by its golden images; each golden part's verdict is the CPU engine's."""
    plans = {"plans": str(tmp_path / "plans"), "plan_precision": precision, "batch": batch}
    settings = tiny_station.settings(tmp_path, engine={**plans, "runtime": "tensorrt"})
    built = inspectd("build", "--station", str(settings), folder=tmp_path)
    assert built.returncode == 0, built.stderr
    bundle, limit = tiny_station.bundle, tiny_station.bundle.thresholds.part.value
    on_gpu = load_runtime(bundle, EngineSettings(runtime="tensorrt", **plans))
    on_cpu = load_runtime(bundle, EngineSettings(runtime="openvino"))
    for image in bundle.manifest.golden:
        part = read_golden(bundle, image)
        assert (infer(on_gpu, part).part_score > limit) == (infer(on_cpu, part).part_score > limit)
    on_gpu.close()
    on_cpu.close()
    checked = inspectd("check", "--station", str(settings), folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "tensorrt" in checked.stdout
    ran = inspectd("run", "--station", str(settings), "--max-parts", "50", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_closing_gives_the_memory_back(machine: Machine) -> None:
    """Loaded and closed ten times over, the card has as much free memory as after the first time, within 64 MiB."""
    tiny = tiny_plan()
    plan = machine.plan(tiny.serialised, tiny.stage)
    driver = import_module("pycuda.driver")
    context = driver.Device(0).make_context()
    free = []
    try:
        for _ in range(10):
            runtime = TensorRtRuntime(plan, machine.packages)
            infer(runtime, part_images(1)[0])
            runtime.close()
            free.append(driver.mem_get_info()[0])
    finally:
        context.pop()
        context.detach()
    assert free[-1] > free[0] - 2**26


def test_a_plan_that_is_none(machine: Machine) -> None:
    """Bytes that are no plan are refused in one line with TensorRT's own reason, and the next plan runs."""
    tiny = tiny_plan()
    good = machine.plan(tiny.serialised, tiny.stage)
    with pytest.raises(EngineUnavailable, match="cannot use this plan") as caught:
        TensorRtRuntime(Plan(good.key, b"no plan at all", good.stage), machine.packages)
    assert "\n" not in str(caught.value)
    runtime = TensorRtRuntime(good, machine.packages)
    assert np.isfinite(infer(runtime, part_images(1)[0]).part_score)
    runtime.close()


def test_figures_can_be_measured(machine: Machine, load: Load) -> None:
    """What `tools/benchmark.py gpu` measures is positive and consistent; no limit on any speed."""
    tiny = tiny_plan()
    runtime = load(machine.plan(tiny.serialised, tiny.stage))
    slot = runtime.gpu_slots[0]
    on_device = sorted(slot.timed(10.0) for _ in range(50))
    assert 0 < on_device[0] <= on_device[-1]
