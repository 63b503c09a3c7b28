"""Editing ONNX graphs: who makes a value and who reads it, what lies after a node, and dropping what nobody reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Graph:
    """A model's main graph by the names of its values; nodes stay in their (topological) order.

    Constant nodes are initialisers from the start. The model given is edited in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._lift_constants()
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            self.makers.update(dict.fromkeys(node.output, node))
            for value in node.input:
                self.readers[value].append(node)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """In topological order."""
        return list(self.model.graph.node)

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """A constant's values, or None for a value that is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def after(self, start: Iterable[onnx.NodeProto]) -> set[str]:
        """Values that `start` makes, and all that is computed from them."""
        reached = {value for node in start for value in node.output}
        for node in self.model.graph.node:
            if reached.intersection(node.input):
                reached.update(node.output)
        return reached

    def depends(self, name: str, on: str) -> bool:
        """Whether the value `name` is computed from the value `on`, or is it."""
        return name == on or name in self.after(self.readers[on])

    def types(self) -> dict[str, int]:
        """ONNX element type of every value, constants included. Raises onnx's InferenceError."""
        inferred = onnx.shape_inference.infer_shapes(self.model, strict_mode=True).graph
        ports = (*inferred.input, *inferred.output, *inferred.value_info)
        known = {port.name: port.type.tensor_type.elem_type for port in ports}
        return known | {tensor.name: tensor.data_type for tensor in inferred.initializer}

    def _lift_constants(self) -> None:
        graph = self.model.graph
        kept = []
        for node in graph.node:
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            if node.op_type == "Constant" and values:
                tensor = graph.initializer.add()
                tensor.CopyFrom(values[0])
                tensor.name = node.output[0]
            else:
                kept.append(node)
        replace_nodes(graph, kept)


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph these nodes, in this order."""
    fresh = list(nodes)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in fresh]
    del graph.node[:]
    graph.node.extend(copies)


def drop_unread(model: onnx.ModelProto) -> None:
    """Drop nodes and constants that no output depends on, and what is known of shapes within."""
    graph = model.graph
    needed = {port.name for port in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    replace_nodes(graph, reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    del graph.value_info[:]
