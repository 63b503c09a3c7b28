"""Cut Patch_GMSD off a fused graph: on a GPU a kernel of its own takes its place (engines/kernels, docs/gpu.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engines.compilation.gpu.editing import Graph, drop_unread
from engines.compilation.scopes import TAIL, within
from engines.errors import EngineUnavailable

FEATURE_SCORES: Final = "feature_scores"
CUT_OUTPUTS: Final = (FEATURE_SCORES, "anomaly_map", "reconstruction")
"""What a graph without its Patch_GMSD gives: (1, R), (1, H1, W1), (1, H, W), all float32."""
_SCOPE: Final = f"{TAIL}.patch_gmsd"
_COMBINE: Final[dict[str, Literal["add", "multiply"]]] = {"Add": "add", "Mul": "multiply"}


@dataclass(frozen=True, slots=True)
class Cut:
    """How Patch_GMSD_r joins feature score r: combine, and (R,) the weight of Patch_GMSD_r in it, lambda_r included."""

    combine: Literal["add", "multiply"]
    weights: NDArray[np.float64]


def cut_patch_gmsd(model: onnx.ModelProto, regions: int) -> Cut | None:
    """Take Patch_GMSD and all after it out of `model` (edited in place); None, and nothing done, where it has none.

    The model then answers with `CUT_OUTPUTS`. Feature score r is what Patch_GMSD_r joins: with score calibrated a
    region's highest cell in deviations, with score paper S_DT, the same for all regions (Eq. 11).
    Raises EngineUnavailable where the score is Patch_GMSD alone (an ablation), ValueError for a graph of another build.
    """
    graph = Graph(model)
    inside = [node for node in graph.nodes if within(node.name, _SCOPE)]
    if not inside:
        return None
    reached = graph.after(inside)
    meeting = _meeting(graph, reached)
    side = 0 if meeting.input[0] in reached else 1
    weights = _weights(graph, meeting.input[side], reached, regions)
    features = meeting.input[1 - side]
    if meeting.op_type == "Mul":
        features, more = _without_weights(graph, features)
        weights = weights * more
    _answer_with(model, features, regions)
    return Cut(_COMBINE[meeting.op_type], np.broadcast_to(weights, (regions,)).astype(np.float64))


def _meeting(graph: Graph, reached: set[str]) -> onnx.NodeProto:
    """The first node outside Patch_GMSD where its values meet others that are computed too."""
    for node in graph.nodes:
        others = [value for value in node.input if value not in reached and graph.constant(value) is None]
        if reached.intersection(node.input) and others and not within(node.name, _SCOPE):
            if node.op_type not in _COMBINE:
                raise ValueError(f"{node.name}: Patch_GMSD joins the score by {node.op_type}; expected Add or Mul")
            return node
    raise EngineUnavailable(
        "model.features: false is an ablation without an engine for GPUs: set engine.runtime: openvino"
    )


def _weights(graph: Graph, value: str, reached: set[str], regions: int) -> NDArray[np.float64]:
    """The product of the constants that Patch_GMSD_r is multiplied by on its way to `value`."""
    weights = np.ones(regions)
    while not within((node := graph.makers[value]).name, _SCOPE):
        factors = [graph.constant(name) for name in node.input if name not in reached]
        if node.op_type != "Mul" or len(factors) != 1 or factors[0] is None:
            raise ValueError(f"{node.name}: between Patch_GMSD and the score stands {node.op_type}; expected a weight")
        weights = weights * factors[0].astype(np.float64).reshape(-1)
        value = next(name for name in node.input if name in reached)
    return weights


def _without_weights(graph: Graph, value: str) -> tuple[str, NDArray[np.float64]]:
    """What `value` is before it is multiplied by constants, and their product: lambda_r belongs to Patch_GMSD_r."""
    maker = graph.makers[value]
    constants = [graph.constant(name) for name in maker.input]
    found = [constant for constant in constants if constant is not None]
    if maker.op_type != "Mul" or len(found) != 1:
        return value, np.ones(1)
    return maker.input[0 if constants[0] is None else 1], found[0].astype(np.float64).reshape(-1)


def _answer_with(model: onnx.ModelProto, features: str, regions: int) -> None:
    """Replace the outputs by CUT_OUTPUTS, `features` brought to (1, R), and drop what is not needed for them."""
    shape = numpy_helper.from_array(np.array([1, regions], dtype=np.int64), f"{FEATURE_SCORES}.shape")
    model.graph.initializer.append(shape)
    name = f"{TAIL}/{FEATURE_SCORES}"
    model.graph.node.append(helper.make_node("Expand", [features, shape.name], [FEATURE_SCORES], name=name))
    port = helper.make_tensor_value_info(FEATURE_SCORES, onnx.TensorProto.FLOAT, [1, regions])
    kept = [output for output in model.graph.output if output.name in CUT_OUTPUTS]
    outputs = [port, *(onnx.ValueInfoProto.FromString(output.SerializeToString()) for output in kept)]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    drop_unread(model)


def patch_factors(cut: Cut, lambdas: Sequence[float]) -> tuple[float, ...]:
    """What lambda_r * Patch_GMSD_r is multiplied by, (R,). Raises ValueError where lambdas are not the regions'."""
    if len(lambdas) != len(cut.weights) or min(lambdas) <= 0:
        raise ValueError(f"{len(cut.weights)} regions and lambdas {list(lambdas)}: one above 0 for each is needed")
    return tuple(float(weight) / value for weight, value in zip(cut.weights, lambdas, strict=True))
