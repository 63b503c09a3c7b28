"""Bytes and operations of a graph, counted from its ONNX: what a GPU has to move and to compute for one part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """Of one inference: multiplications and additions in convolutions and matrix products; bytes.

    weight_bytes: constants, read once a part. activation_bytes: inputs and outputs of those layers, each written and
    read once: a lower bound, as if everything between them were fused.
    """

    operations: int
    weight_bytes: int
    activation_bytes: int

    @property
    def bytes_moved(self) -> int:
        """All of them."""
        return self.weight_bytes + self.activation_bytes


def count_graph(model: bytes) -> GraphCounts:
    """Count a serialised ONNX model of fixed shapes. Raises onnx's InferenceError where shapes are open."""
    graph = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(model), strict_mode=True, data_prop=True).graph
    tensors = {port.name: port.type.tensor_type for port in (*graph.input, *graph.output, *graph.value_info)}
    shapes = {name: tuple(side.dim_value for side in tensor.shape.dim) for name, tensor in tensors.items()}
    widths = {name: _width(tensor.elem_type) for name, tensor in tensors.items()}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes |= {name: tuple(tensor.dims) for name, tensor in constants.items()}
    operations = activation_bytes = 0
    for node in graph.node:
        counted = _operations(
            node.op_type, [shapes.get(name, ()) for name in node.input], shapes.get(node.output[0], ())
        )
        operations += counted
        if counted:
            moved = (node.output[0], *(name for name in node.input if name not in constants))
            activation_bytes += sum(prod(shapes.get(name, ())) * widths.get(name, 4) for name in moved)
    weight_bytes = sum(prod(tensor.dims) * _width(tensor.data_type) for tensor in constants.values())
    return GraphCounts(operations, weight_bytes, activation_bytes)


def _operations(kind: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int:
    """Two per product: the product and its sum."""
    if kind == "Conv":
        return 2 * prod(output) * prod(inputs[1][1:])
    if kind == "ConvTranspose":
        return 2 * prod(inputs[0]) * prod(inputs[1][1:])
    if kind in {"MatMul", "Gemm"}:
        return 2 * prod(output) * inputs[0][-1]
    return 0


def _width(kind: int) -> int:
    """Bytes of one element."""
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize) if kind else 4
