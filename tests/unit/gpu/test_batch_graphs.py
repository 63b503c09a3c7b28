"""A graph of one part made one of several, on a graph drawn by hand; real families: tests/gpu_path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_graph import SIDE, fused_graph, part
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.compilation.gpu.batch import check_batch, for_batch
from engines.compilation.gpu.graphs import typed_graph
from engines.errors import EngineUnavailable

PARTS = 3
SHAPE = (1, SIDE, SIDE, 3)


def answers(model: onnx.ModelProto, parts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """What a model says of these parts, by onnx's reference evaluator."""
    onnx.checker.check_model(model, full_check=True)
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(None, {"part": parts}), strict=True))


@pytest.mark.parametrize("decoder", [True, False])
def test_each_part_gets_what_it_gets_alone(decoder: bool) -> None:
    """Three different parts at once: input and outputs are three times as long, each answer is the part's own."""
    single, together = fused_graph(decoder=decoder), fused_graph(decoder=decoder)
    for_batch(together, PARTS)
    parts = np.concatenate([part(seed) for seed in range(PARTS)])
    for name, values in answers(together, parts).items():
        alone = [answers(single, parts[place : place + 1])[name] for place in range(PARTS)]
        np.testing.assert_allclose(values, np.concatenate(alone), rtol=1e-5, atol=1e-6)


def small(nodes: list[onnx.NodeProto], **constants: NDArray[np.generic]) -> onnx.ModelProto:
    """A model from `part` to `map` (1, 192) through these nodes, the part being `wide` in float32."""
    cast = helper.make_node("Cast", ["part"], ["wide"], name="cast", to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [cast, *nodes],
        "small",
        [helper.make_tensor_value_info("part", TensorProto.UINT8, SHAPE)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, SIDE * SIDE * 3])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_batch_that_was_folded_into_channels_comes_out_again() -> None:
    """Channels that stand in the batch's place, and shapes that leave a side open, keep the parts apart."""
    model = small(
        [
            helper.make_node("Reshape", ["wide", "folded"], ["channels"], name="fold"),
            helper.make_node("Reshape", ["channels", "open"], ["rows"], name="rows"),
            helper.make_node("Reshape", ["rows", "flat"], ["map"], name="unfold"),
        ],
        folded=np.array([SIDE, 1, SIDE, 3]),
        open=np.array([-1, SIDE * 3]),
        flat=np.array([1, -1]),
    )
    for_batch(model, PARTS)
    parts = np.concatenate([part(seed) for seed in range(PARTS)])
    np.testing.assert_array_equal(answers(model, parts)["map"], parts.reshape(PARTS, -1))


def test_a_graph_whose_shapes_know_one_part_only_is_refused() -> None:
    """A constant that is glued to the part has one part's length: one line that names the node, and what to set."""
    glued = [
        helper.make_node("Slice", ["wide", "from", "to", "axes"], ["half"], name="half"),
        helper.make_node("Concat", ["half", "other"], ["whole"], name="glue", axis=1),
        helper.make_node("Reshape", ["whole", "flat"], ["map"], name="flat"),
    ]
    model = small(
        glued,
        **{"from": np.array([0]), "to": np.array([SIDE // 2]), "axes": np.array([1])},
        other=np.zeros((1, SIDE // 2, SIDE, 3), np.float32),
        flat=np.array([1, -1]),
    )
    with pytest.raises(EngineUnavailable, match=r"cannot take 3 parts .*set engine\.batch: 1") as refused:
        for_batch(model, PARTS)
    assert "\n" not in str(refused.value)


def test_a_shape_that_is_computed_is_refused() -> None:
    """What cannot be rewritten is said to be so, instead of being left at one part."""
    model = small(
        [
            helper.make_node("Shape", ["wide"], ["sides"], name="sides"),
            helper.make_node("ReduceProd", ["sides"], ["all"], name="all", keepdims=1),
            helper.make_node("Concat", ["one", "all"], ["flat"], name="shape", axis=0),
            helper.make_node("Reshape", ["wide", "flat"], ["map"], name="flatten"),
        ],
        one=np.array([1]),
    )
    with pytest.raises(EngineUnavailable, match="flatten: its shape is computed"):
        for_batch(model, PARTS)


@pytest.mark.gpu_path
def test_a_graph_that_mixes_parts_is_refused() -> None:
    """Its shapes are right, its values are of all parts together: ONNX Runtime's answers give it away."""
    mixing = [
        helper.make_node("Reshape", ["wide", "flat"], ["values"], name="flat"),
        helper.make_node("ReduceMax", ["values"], ["highest"], name="highest", keepdims=1),
        helper.make_node("Div", ["values", "highest"], ["map"], name="normalised"),
    ]
    single, together = (small(mixing, flat=np.array([1, -1])) for _ in range(2))
    for_batch(together, PARTS)
    with pytest.raises(EngineUnavailable, match=r"map of 3 parts at once is off by .* set engine\.batch: 1"):
        check_batch(single.SerializeToString(), together.SerializeToString(), PARTS, "f32")


@pytest.mark.gpu_path
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_batch_is_typed_and_checked(tmp_path: Path, precision: str) -> None:
    """What `inspectd build` builds from takes and gives the station's batch; graph.onnx stays as it is."""
    path = tmp_path / "graph.onnx"
    onnx.save(fused_graph(), path)
    before = path.read_bytes()
    typed = onnx.ModelProto.FromString(typed_graph(path, precision, batch=PARTS).model)  # type: ignore[arg-type]
    ports = (*typed.graph.input, *typed.graph.output)
    assert {port.type.tensor_type.shape.dim[0].dim_value for port in ports} == {PARTS}
    assert path.read_bytes() == before
