"""Types for a strongly typed engine: which nodes compute in float16, which stay in float32, and casts between them."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engines.compilation.gpu.editing import Graph, replace_nodes
from engines.compilation.scopes import is_exact
from engines.runtimes.openvino import INPUT_NAME

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where nearly all operations are; what stands before the first or after the last of them stays float32."""
SENSITIVE: Final = frozenset(
    {"ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "InstanceNormalization", "LayerNormalization"}
    | {"Softmax", "Pow", "Sqrt", "Div", "Reciprocal", "ConstantOfShape"}
)
"""Sums of many squares overflow float16 above 65 504, and small divisors vanish below 6e-8."""
QUANTISERS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""These have the type of the convolution that they serve: a cast between the two would hide the pair from TensorRT."""
_ALWAYS_FLOAT: Final = {"Resize": (1, 2)}
"""Inputs that are float32 whatever the others are: Resize's region and scales."""


def widen_input(model: onnx.ModelProto) -> None:
    """Make the uint8 input float32 by the first node of all: TensorRT computes nothing else on uint8."""
    graph = model.graph
    wide = f"{INPUT_NAME}.float"
    nodes = [helper.make_node("Cast", [INPUT_NAME], [wide], name=f"{wide}/cast", to=FLOAT)]
    for node in graph.node:
        node.input[:] = [wide if value == INPUT_NAME else value for value in node.input]
        nodes.append(node)
    replace_nodes(graph, nodes)
    del graph.value_info[:]


def exact_nodes(graph: Graph) -> set[str]:
    """Names of the nodes that stay float32.

    The tail and all after it; what no heavy node stands before; what only serves what stays float32; sensitive ones.
    """
    tail = graph.after(node for node in graph.nodes if is_exact(node.name))
    heavy = graph.after(node for node in graph.nodes if node.op_type in HEAVY and not tail.intersection(node.output))
    exact = {
        node.name
        for node in graph.nodes
        if tail.intersection(node.output) or not heavy.intersection(node.output) or node.op_type in SENSITIVE
        if node.op_type not in QUANTISERS
    }
    for node in reversed(graph.nodes):
        readers = [reader.name for value in node.output for reader in graph.readers[value]]
        if node.op_type not in HEAVY and exact.issuperset(readers):
            exact.add(node.name)
    return exact


def to_half(model: onnx.ModelProto, exact: str = "") -> None:
    """Bring `model` (float32, edited in place) to float16 outside `exact_nodes`, outputs included in float32.

    exact: nodes whose names match stay float32 too. Raises ValueError for a constant that float16 cannot hold.
    """
    graph = Graph(model)
    keep = exact_nodes(graph) | {node.name for node in graph.nodes if exact and re.match(exact, node.name)}
    _Retyping(graph, keep).run()


class _Retyping:
    """One pass over the nodes in their order: `types` is what each value is by now."""

    def __init__(self, graph: Graph, exact: set[str]) -> None:
        self._graph, self._exact = graph, exact
        self._types = graph.types()
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        """Retype all nodes, then give the outputs back their float32."""
        model = self._graph.model
        for node in self._graph.nodes:
            self._retype(node)
        for port in model.graph.output:
            if self._types[port.name] == HALF:
                raise ValueError(f"{port.name} would be float16: an output is made by what stays float32")
        replace_nodes(model.graph, self._nodes)
        del model.graph.value_info[:]

    def _retype(self, node: onnx.NodeProto) -> None:
        wanted = FLOAT if node.name in self._exact else HALF
        fixed = _ALWAYS_FLOAT.get(node.op_type, ())
        if node.op_type == "Cast":
            self._retarget(node, wanted)
        else:
            for place, value in enumerate(node.input):
                if self._types.get(value) in {FLOAT, HALF}:
                    node.input[place] = self._as(value, FLOAT if place in fixed else wanted)
        for value in node.output:
            if self._types.get(value) == FLOAT:
                self._types[value] = wanted
        self._nodes.append(node)

    @staticmethod
    def _retarget(node: onnx.NodeProto, wanted: int) -> None:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = wanted

    def _as(self, value: str, wanted: int) -> str:
        """The name under which `value` has that type; a constant is converted, anything else gets a Cast."""
        if self._types[value] == wanted:
            return value
        if (value, wanted) not in self._made:
            name = f"{value}.{'f16' if wanted == HALF else 'f32'}"
            constant = self._graph.constant(value)
            if constant is None:
                self._nodes.append(helper.make_node("Cast", [value], [name], name=f"{name}/cast", to=wanted))
            else:
                tensor = numpy_helper.from_array(_half(constant, value), name)
                self._graph.model.graph.initializer.append(tensor)
            self._made[value, wanted] = name
            self._types[name] = wanted
        return self._made[value, wanted]


def _half(constant: NDArray[np.generic], name: str) -> NDArray[np.float16]:
    largest = float(np.abs(constant.astype(np.float64)).max(initial=0.0))
    if np.isfinite(largest) and largest > float(np.finfo(np.float16).max):
        raise ValueError(f"{name}: {largest:g} does not fit into float16")
    return constant.astype(np.float16)
