"""Cutting, typing and checking graphs for a GPU, on a graph drawn by hand; real families: tests/gpu_path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_graph import FACTORS, LAMBDAS, REGIONS, fused_graph, part
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from engines.compilation.gpu.cut import CUT_OUTPUTS, cut_patch_gmsd, patch_factors
from engines.compilation.gpu.editing import Graph
from engines.compilation.gpu.graphs import PLAIN_OUTPUTS, typed_graph
from engines.compilation.gpu.typed import to_half, widen_input
from engines.errors import EngineUnavailable


def answers(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """What a model says of one part, by onnx's reference evaluator."""
    onnx.checker.check_model(model, full_check=True)
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(None, {"part": part()}), strict=True))


def patch_part(model: onnx.ModelProto) -> NDArray[np.float32]:
    """Patch_GMSD_r of the same part: the value that the cut takes away."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.append(onnx.helper.make_tensor_value_info("patch_gmsd", TensorProto.FLOAT, [1, REGIONS]))
    return answers(shown)["patch_gmsd"]


@pytest.mark.parametrize(("join", "combine"), [("Add", "add"), ("Mul", "multiply")])
def test_cut_scores_and_weights_give_the_score_again(join: str, combine: str) -> None:
    """Feature scores, joined with the weighted Patch_GMSD as the cut says, are the uncut graph's region scores."""
    whole, model = fused_graph(join), fused_graph(join)
    cut = cut_patch_gmsd(model, REGIONS)
    assert cut is not None
    assert cut.combine == combine
    expected, found = answers(whole), answers(model)
    assert tuple(found) == CUT_OUTPUTS
    assert found["feature_scores"].shape == (1, REGIONS)
    term = cut.weights * patch_part(whole)
    joined = found["feature_scores"] + term if combine == "add" else found["feature_scores"] * term
    np.testing.assert_allclose(joined, expected["region_scores"], rtol=1e-5)
    np.testing.assert_array_equal(found["reconstruction"], expected["reconstruction"])
    factors = patch_factors(cut, LAMBDAS)
    np.testing.assert_allclose(factors, FACTORS if combine == "add" else (1.0, 1.0), rtol=1e-6)
    assert not [node.name for node in model.graph.node if "patch_gmsd" in node.name]


def test_a_graph_without_a_decoder_is_left_whole() -> None:
    """There is nothing to cut, and the graph stays as it is."""
    model = fused_graph(decoder=False)
    before = model.SerializeToString()
    assert cut_patch_gmsd(model, REGIONS) is None
    assert model.SerializeToString() == before


def test_a_score_of_patch_gmsd_alone_is_refused() -> None:
    """The ablation without features has no plan: one line, and what to set."""
    with pytest.raises(EngineUnavailable, match=r"features: false .*set engine.runtime: openvino"):
        cut_patch_gmsd(fused_graph("alone"), REGIONS)


def test_a_score_of_another_build_is_refused() -> None:
    """A graph that joins Patch_GMSD in a way that the kernel does not know is not cut wrongly."""
    with pytest.raises(ValueError, match="joins the score by Sub"):
        cut_patch_gmsd(fused_graph("Sub"), REGIONS)


@pytest.mark.parametrize("lambdas", [(0.5,), (0.5, 0.0)])
def test_lambdas_that_are_not_the_regions_are_refused(lambdas: tuple[float, ...]) -> None:
    """One lambda above 0 for each region, or no stage."""
    cut = cut_patch_gmsd(fused_graph(), REGIONS)
    assert cut is not None
    with pytest.raises(ValueError, match="lambdas"):
        patch_factors(cut, lambdas)


def test_the_part_is_cast_first() -> None:
    """Only one node reads the uint8 input, and it makes float32 of it; the answers are the same bits."""
    model = fused_graph()
    expected = answers(model)
    widen_input(model)
    assert [node.op_type for node in model.graph.node if "part" in node.input] == ["Cast"]
    assert model.graph.node[0].input == ["part"]
    for name, found in answers(model).items():
        np.testing.assert_array_equal(found, expected[name])


def half_graph() -> tuple[onnx.ModelProto, dict[str, int]]:
    """The drawn graph in float16, and the type of each node's first output by the node's name."""
    model = fused_graph()
    widen_input(model)
    to_half(model)
    types = Graph(onnx.ModelProto.FromString(model.SerializeToString())).types()
    return model, {node.name: types[node.output[0]] for node in model.graph.node}


def test_half_is_where_the_work_is() -> None:
    """Convolutions and what lies between them are float16; preparation, tail and reconstruction stay float32."""
    model, types = half_graph()
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16 and not name.endswith("/cast")}
    assert half == {
        "network.student/first",
        "network.student/clipped",
        "network.student/second",
        "network.decoder/logits",
    }
    assert {types[name] for name in types if name.startswith("tail")} == {TensorProto.FLOAT}
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert constants["weight_1.f16"] == constants["low.f16"] == TensorProto.FLOAT16


def test_half_answers_like_float() -> None:
    """Outputs keep names, shapes and float32, and differ by float16's rounding, not by nothing and not by more."""
    expected, found = answers(fused_graph()), answers(half_graph()[0])
    assert list(found) == list(expected)
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], rtol=2e-2, atol=2e-3)
    assert np.abs(found["reconstruction"] - expected["reconstruction"]).max() > 0


def test_a_constant_that_float16_cannot_hold_is_refused() -> None:
    """It would become infinite in silence."""
    model = fused_graph(largest=20_000)
    widen_input(model)
    with pytest.raises(ValueError, match="high: 120000 does not fit into float16"):
        to_half(model)


@pytest.mark.parametrize(("decoder", "outputs"), [(True, CUT_OUTPUTS), (False, PLAIN_OUTPUTS)])
def test_ports_of_a_typed_graph(tmp_path: Path, decoder: bool, outputs: tuple[str, ...]) -> None:
    """uint8 part in, the stated outputs in float32 out, in both precisions."""
    path = tmp_path / "graph.onnx"
    onnx.save(fused_graph(decoder=decoder), path)
    for precision in ("f32", "f16"):
        typed = typed_graph(path, precision)
        assert (typed.cut is not None) == decoder
        assert tuple(answers(onnx.ModelProto.FromString(typed.model))) == outputs


def test_what_is_no_fused_graph_is_refused(tmp_path: Path) -> None:
    """A model without region scores is not taken for an engine."""
    model = fused_graph(decoder=False)
    del model.graph.output[1]
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(ValueError, match="not a fused graph"):
        typed_graph(tmp_path / "graph.onnx", "f32")
