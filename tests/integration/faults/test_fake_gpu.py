"""The daemon end to end over a FAKE CUDA driver and a FAKE TensorRT: no GPU, no driver, no TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accounting
import pytest
from fake_tensorrt import FakeTensorRt, fake_packages
from faulty_line import FaultyLine
from host_kernel import host_images, host_library
from tiny_station import ROOT, TinyStation

from engines import golden
from engines.compilation.gpu.cut import patch_factors
from engines.compilation.gpu.graphs import typed_graph
from engines.gpu import Gpu, TensorRt
from engines.plans import PatchStage, PlanCache, Reproduced, plan_key
from engines.runtimes.tensorrt import TensorRtRuntime
from inspectd.pace import TIMED_PARTS

Line = Callable[..., FaultyLine]
BEFORE_READY = 4 + 5 + 1
"""Inferences of a load: two warm-ups of two slots, five black parts; one golden image at least."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for the CPU."""
    return host_library(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def plans(tiny_station: TinyStation, kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan cache with the tiny station's fake plan."""
    return keep_plan(tiny_station, kernels, tmp_path_factory.mktemp("plans"))


def keep_plan(tiny_station: TinyStation, kernels: Path, root: Path, batch: int = 1) -> Path:
    """Put the station's fake plan into a cache, accepted as `inspectd build` accepts: by its golden images."""
    bundle = tiny_station.bundle
    typed = typed_graph(bundle.path(bundle.manifest.engine.files["graph"]), "f32", batch=batch)
    assert typed.cut is not None
    settings, lambdas = bundle.manifest.settings, tuple(each.value for each in bundle.manifest.lambdas)
    stage = PatchStage(
        combine=typed.cut.combine,
        canvas=settings.canvas,
        regions=settings.regions,
        patch_gmsd=settings.model.patch_gmsd,
        lambdas=lambdas,
        patch_factor=patch_factors(typed.cut, lambdas),
    )
    fake = fake_packages()
    gpu = Gpu(fake.cuda.driver.Device(0).name(), 86)
    tensorrt = TensorRt(fake.tensorrt, "tensorrt", FakeTensorRt.__version__)
    key = plan_key(bundle, gpu, tensorrt, "f32", batch=batch)
    with PlanCache(root, 2**30).draft(key, typed.model, stage) as draft:
        runtime = TensorRtRuntime(draft.plan, fake.packages, images=host_images(bytes(kernels)))
        report = golden.verify(bundle, runtime)
        runtime.close()
        draft.accept(Reproduced(images=report.images, worst_deviation=report.worst_deviation))
    return root


@pytest.fixture
def gpu_line(line: Line, plans: Path, kernels: Path) -> Line:
    """Makes lines whose station asks for TensorRT."""

    def make(lost_at: int = 0, engine: dict[str, object] | None = None, **changes: object) -> FaultyLine:
        asked = {"runtime": "tensorrt", "plan_precision": "f32", "plans": str(plans), **(engine or {})}
        made = line(run=False, engine=asked, **changes)
        made.program = (str(ROOT / "tests" / "fake_gpu_daemon.py"), str(kernels), str(lost_at))
        made.start()
        return made

    return make


def test_every_part_is_judged_by_the_plan(gpu_line: Line) -> None:
    """Choice, plan, golden images, READY, verdicts, records: as with any runtime, and nothing is left over."""
    running = gpu_line()
    assert running.reasons(5) == ["within_limits"] * 5
    assert accounting.balance(running, 5) == 0
    ready = running.logged("ready")
    assert ready["engine"] == "tensorrt f32"
    assert "engine abandoned" not in " ".join(running.events())


@pytest.mark.gpu_path
def test_a_station_whose_engine_takes_two_parts(
    gpu_line: Line, tiny_station: TinyStation, kernels: Path, tmp_path: Path
) -> None:
    """A plan of two parts, made of the bundle's own graph: each part is judged, be it alone or in company."""
    root = keep_plan(tiny_station, kernels, tmp_path / "plans", batch=2)
    running = gpu_line(engine={"plans": str(root), "batch": 2, "batch_wait_ms": 5.0})
    assert running.reasons(5) == ["within_limits"] * 5
    assert accounting.balance(running, 5) == 0
    assert running.logged("ready")["engine"] == "tensorrt f32"
    assert "of 2 parts" in str(running.logged("ready"))


def test_a_lost_device_costs_parts_and_the_engine_is_replaced(gpu_line: Line, tiny_station: TinyStation) -> None:
    """From the part on which the device is lost, parts are INVALID (engine fault) until another engine judges."""
    golden_images = len(tiny_station.bundle.manifest.golden)
    running = gpu_line(
        BEFORE_READY - 1 + golden_images + TIMED_PARTS + 3, supervision={"hang_s": 5, "faults_in_a_row": 2}
    )
    assert running.reasons(2) == ["within_limits"] * 2
    assert running.reasons(2) == ["engine_fault", "engine_fault"]
    running.recovers()
    reasons = {result["reason"] for result in running.heard.results}
    assert reasons <= {"within_limits", "over_threshold", "engine_fault"}
    metrics = running.metrics()
    assert metrics["inspectd_engine_restarts_total"] == 1
    assert metrics["inspectd_engines_abandoned_total"] == 1
    assert accounting.balance(running, len(running.heard.results)) == 0
    assert "device was lost" in str([part.verdict.detail for part in running.records()])
