"""The first step of a GPU build: the bundle's graph.onnx -> the ONNX that a strongly typed engine is built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from engines.compilation.gpu.batch import check_batch, for_batch
from engines.compilation.gpu.cut import CUT_OUTPUTS, Cut, cut_patch_gmsd
from engines.compilation.gpu.editing import drop_unread
from engines.compilation.gpu.quantise import quantise
from engines.compilation.gpu.typed import to_half, widen_input
from engines.plans import PlanPrecision
from engines.runtimes.openvino import INPUT_NAME, OUTPUT_NAMES

PLAIN_OUTPUTS: Final = OUTPUT_NAMES[:3]
"""What a graph without a decoder answers with."""
NO_PARTS: Final[NDArray[np.uint8]] = np.zeros((0, 1, 1, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class TypedGraph:
    """A serialised ONNX model; cut: how Patch_GMSD joins its feature scores, None where it gives the final scores."""

    model: bytes
    cut: Cut | None


def typed_graph(
    graph: Path, precision: PlanPrecision, good_parts: NDArray[np.uint8] = NO_PARTS, *, batch: int = 1
) -> TypedGraph:
    """The graph at `graph` (as `export_graph` writes it) for a GPU, in that precision, its tail in float32.

    f16: weights and activations are float16. int8: Q/DQ around convolutions, ranges from good_parts ((P, H, W, 3) uint8
    RGB), which the other precisions ignore. batch: N parts at once; above 1, ONNX Runtime must give each of them what
    it gives it alone. Input: part (N, H, W, 3) uint8; outputs, all float32, their first dimension N: CUT_OUTPUTS where
    a kernel computes Patch_GMSD, else PLAIN_OUTPUTS. Blocks for seconds. Raises EngineUnavailable, ValueError.
    """
    model = onnx.load(graph)
    cut = cut_patch_gmsd(model, _regions(model))
    widen_input(model)
    if precision == "int8":
        model = quantise(model, good_parts)
    if precision != "f32":
        to_half(model)
    drop_unread(model)
    single = model.SerializeToString()
    if batch > 1:
        for_batch(model, batch)
    _check(model, CUT_OUTPUTS if cut else PLAIN_OUTPUTS)
    typed = TypedGraph(model.SerializeToString(), cut)
    if batch > 1:
        check_batch(single, typed.model, batch, precision)
    return typed


def _regions(model: onnx.ModelProto) -> int:
    sizes = [output.type.tensor_type.shape.dim for output in model.graph.output if output.name == "region_scores"]
    if len(sizes) != 1 or len(sizes[0]) != 2:
        raise ValueError("not a fused graph: it has no output region_scores (1, R)")
    return int(sizes[0][1].dim_value)


def _check(model: onnx.ModelProto, outputs: tuple[str, ...]) -> None:
    """Raise ValueError unless the model is valid ONNX with these ports."""
    onnx.checker.check_model(model, full_check=True)
    types = {port.name: port.type.tensor_type.elem_type for port in (*model.graph.input, *model.graph.output)}
    expected = dict.fromkeys(outputs, onnx.TensorProto.FLOAT) | {INPUT_NAME: onnx.TensorProto.UINT8}
    if types != expected:
        raise ValueError(f"the typed graph has ports {types}; expected {expected} (1: float32, 2: uint8)")
