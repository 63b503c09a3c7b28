"""On a GPU: plan and kernel against their references, in f32, f16 and int8. Skipped without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from tiny_plan import expected, part_images, tiny_plan

from engines.plans import PatchStage, PlanPrecision
from engines.runtimes import infer
from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

if TYPE_CHECKING:
    from conftest import Machine

pytestmark = pytest.mark.gpu
PRECISIONS: Final[tuple[PlanPrecision, ...]] = ("f32", "f16", "int8")
LEAST_CORRELATION: Final = {"f32": 0.9999, "f16": 0.99, "int8": 0.9}
"""Of the anomaly map's cells with the torch network's; weights are random, so int8 shows wrong wiring only."""
Load = Callable[..., TensorRtRuntime]


@pytest.mark.parametrize("graphs", [True, False])
def test_the_kernel_is_the_float64_reference(machine: Machine, load: Load, graphs: bool) -> None:
    """Patch_GMSD on the device, behind a graph that is exact: scores within 1e-4 of the reference, same bits twice."""
    tiny = tiny_plan()
    runtime = load(machine.plan(tiny.serialised, tiny.stage), GpuOptions(graphs=graphs, reconstruction=True))
    assert runtime.recorded is graphs
    for image in part_images(16):
        true = expected(image)
        outputs = infer(runtime, image)
        scores = outputs.region_scores.copy()
        assert outputs.part_score == pytest.approx(true.part_score, rel=1e-4)
        np.testing.assert_allclose(scores, true.region_scores, rtol=1e-4)
        np.testing.assert_allclose(outputs.anomaly_map, true.anomaly_map, rtol=1e-5)
        assert infer(runtime, image).region_scores.tobytes() == scores.tobytes()


def test_two_slots_answer_side_by_side(machine: Machine, load: Load) -> None:
    """Two parts in flight get each their own answer."""
    tiny = tiny_plan()
    runtime = load(machine.plan(tiny.serialised, tiny.stage))
    for _ in range(50):
        images = part_images(2)
        for slot, image in zip(runtime.slots, images, strict=True):
            np.copyto(slot.input, image)
            slot.start()
        for slot, image in zip(runtime.slots, images, strict=True):
            assert slot.wait(10.0).part_score == pytest.approx(expected(image).part_score, rel=1e-4)


def test_a_batch_of_four(machine: Machine, load: Load) -> None:
    """Four parts in one inference, each with its own answer."""
    tiny = tiny_plan(batch=4)
    runtime = load(machine.plan(tiny.serialised, tiny.stage), GpuOptions(batch_wait_ms=1000.0))
    images = part_images(4)
    for slot, image in zip(runtime.slots, images, strict=False):
        np.copyto(slot.input, image)
        slot.start()
    for slot, image in zip(runtime.slots, images, strict=False):
        assert slot.wait(10.0).part_score == pytest.approx(expected(image).part_score, rel=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_family(machine: Machine, load: Load, precision: PlanPrecision, tmp_path: Path) -> None:
    """Map and region scores of every network family follow the torch network's."""
    families = pytest.importorskip("families", reason="needs torch and the extra calibrate")
    from engines.compilation.gpu.cut import patch_factors

    parts = families.part_images(8, seed=5)
    for name in families.FAMILIES:
        family = families.Family(name, tmp_path)
        typed = family.typed(precision)
        stage = None
        if typed.cut is not None:
            stage = PatchStage(
                combine=typed.cut.combine,
                canvas=families.CANVAS,
                regions=families.REGIONS,
                patch_gmsd=family.model.patch_gmsd,
                lambdas=families.LAMBDAS,
                patch_factor=patch_factors(typed.cut, families.LAMBDAS),
            )
        runtime = load(machine.plan(typed.model, stage, precision))
        found, true = [], []
        for part in parts:
            outputs, reference = infer(runtime, part), family.answers(part)
            found.append(outputs.anomaly_map.ravel().copy())
            true.append(reference["anomaly_map"].ravel())
            if precision == "f32":
                scale = max(1.0, float(np.abs(reference["region_scores"]).max()))
                error = np.abs(outputs.region_scores - reference["region_scores"][0]).max()
                assert error < 1e-3 * scale, name
        correlation = np.corrcoef(np.concatenate(found), np.concatenate(true))[0, 1]
        assert correlation > LEAST_CORRELATION[precision], name
