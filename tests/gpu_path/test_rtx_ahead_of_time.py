"""RTX ahead-of-time build: TensorRT for RTX parses and compiles every graph on this machine, without a GPU.

It proves parser, types, shapes and compilation, for TensorRT for RTX. Nothing here runs an engine, and nothing here is
TensorRT itself.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import onnx
import pytest
from families import Family
from onnx import TensorProto, helper, numpy_helper

from engines.compilation.gpu.build import BuiltPlan, Port, build_plan
from engines.errors import EngineUnavailable
from engines.plans import PlanPrecision

pytestmark = pytest.mark.gpu_path
CAPABILITIES: Final = (75, 86, 89, 120)


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    """TensorRT for RTX, which imports and builds without a driver."""
    import tensorrt_rtx

    module: ModuleType = tensorrt_rtx
    return module


@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_rtx_ahead_of_time_build(family: Family, precision: PlanPrecision, rtx: ModuleType) -> None:
    """Every family and precision compiles for every GPU generation; ports are as stated, and progress is told.

    But for a vision transformer in float32 on Turing (SM 75), for which the package has no product of matrices.
    """
    steps: list[tuple[int, int]] = []
    products = "dinov2_small" in family.model.teachers and precision == "f32"
    built = build_plan(
        rtx,
        family.typed(precision).model,
        capabilities=CAPABILITIES[1:] if products else CAPABILITIES,
        progress=lambda what, done, total: steps.append((done, total)),
    )
    assert built.ports == {name: Port(kind, shape) for name, (kind, shape) in family.ports().items()}
    assert len(built.serialised) > 100_000
    assert steps
    assert all(0 <= done <= total for done, total in steps)


@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_a_memory_in_two_steps_is_built(
    precision: PlanPrecision, tmp_path: Path, rtx: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every GPU generation has a way to choose the farthest cells and to put them back."""
    family = Family.searched_in_two_steps(tmp_path, monkeypatch)
    assert len(build_plan(rtx, family.typed(precision).model, capabilities=CAPABILITIES).serialised) > 100_000


@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_rtx_ahead_of_time_build_for_two_parts(
    precision: PlanPrecision, made: dict[str, Family], rtx: ModuleType
) -> None:
    """A graph for a batch compiles too; every port has its parts in the first dimension."""
    family = made["dtkd"]
    built = build_plan(rtx, family.typed(precision, batch=2).model, capabilities=(86,))
    assert built.ports == {name: Port(kind, shape) for name, (kind, shape) in family.ports(batch=2).items()}


@pytest.mark.parametrize("sm", CAPABILITIES)
def test_rtx_ahead_of_time_build_for_one_generation(sm: int, made: dict[str, Family], rtx: ModuleType) -> None:
    """A plan for one generation alone is smaller than one for all, so it does hold that generation's kernels only."""
    model = made["dtkd, paper"].typed("f16").model
    one, every = _build(rtx, model, sm), _build(rtx, model, *CAPABILITIES)
    assert 0 < len(one.serialised) < len(every.serialised)


def test_half_and_int8_weights_are_in_the_plan(made: dict[str, Family], rtx: ModuleType) -> None:
    """An f16 plan holds half the weights' bytes, an int8 one fewer still: no precision was taken back in silence."""
    family = made["stpm, paper"]  # VGG: nearly all bytes are weights
    sizes = [len(_build(rtx, family.typed(precision).model, 86).serialised) for precision in ("f32", "f16", "int8")]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.8 * sizes[1]


def test_products_of_matrices_in_float32_are_refused_for_turing(made: dict[str, Family], rtx: ModuleType) -> None:
    """One line names the operation; f16 is built."""
    with pytest.raises(EngineUnavailable, match=r"blocks\.0\.attn.*Turing") as refused:
        _build(rtx, made["memory of dinov2"].typed("f32").model, 75)
    assert "\n" not in str(refused.value)


def test_rtx_has_no_timing_cache(made: dict[str, Family], rtx: ModuleType) -> None:
    """Where a timing cache is a no-op, none is asked for, and none is kept."""
    model = made["dtkd without decoder"].typed("f32").model
    assert build_plan(rtx, model, capabilities=(86,), timing=b"of another package").timing == b""


def test_a_graph_of_mixed_types_is_refused(rtx: ModuleType) -> None:
    """Float32 pixels with float16 weights are no strongly typed graph: one line with the parser's reason."""
    weight = numpy_helper.from_array(np.ones((1, 3, 3, 3), np.float16), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["planes", "weight"], ["map"], name="mixed")],
        "mixed",
        [helper.make_tensor_value_info("planes", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 6, 6])],
        [weight],
    )
    _refused(rtx, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "mixed|type")


def test_an_operation_that_tensorrt_lacks_is_refused(rtx: ModuleType) -> None:
    """An unknown operation is named in the one line."""
    graph = helper.make_graph(
        [helper.make_node("Det", ["matrix"], ["value"], name="determinant")],
        "unknown",
        [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, [3, 3])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [])],
    )
    _refused(rtx, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "Det")


def test_what_is_no_onnx_is_refused(rtx: ModuleType) -> None:
    """Damaged bytes end in one line, not in a crash."""
    with pytest.raises(EngineUnavailable, match="the parser refuses the graph") as refused:
        build_plan(rtx, b"no model", capabilities=(86,))
    assert "\n" not in str(refused.value)


def test_a_generation_that_rtx_cannot_build_for(made: dict[str, Family], rtx: ModuleType) -> None:
    """SM 70 is said to be out of reach."""
    with pytest.raises(EngineUnavailable, match="cannot build ahead of time for SM 70"):
        _build(rtx, made["dtkd without decoder"].typed("f32").model, 70)


def _build(rtx: ModuleType, model: bytes, *capabilities: int) -> BuiltPlan:
    return build_plan(rtx, model, capabilities=capabilities)


def _refused(rtx: ModuleType, model: onnx.ModelProto, said: str) -> None:
    onnx.checker.check_model(model)
    with pytest.raises(EngineUnavailable, match=said) as refused:
        build_plan(rtx, model.SerializeToString(), capabilities=(86,))
    assert "\n" not in str(refused.value)
