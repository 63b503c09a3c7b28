"""A typed graph of one part -> the same for N parts at once, proven part by part before anything is built from it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.shape_inference import InferenceError

from engines.compilation.gpu.editing import Graph, drop_unread
from engines.errors import EngineUnavailable
from engines.plans import PlanPrecision
from engines.runtimes.openvino import INPUT_NAME

SHAPE_INPUT: Final = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Which input of a node states the shape of what it makes: constants, which name a batch of 1."""
TOLERANCE: Final[dict[PlanPrecision, float]] = {"f32": 1e-4, "f16": 1e-2, "int8": 5e-2}
"""Of an output's largest value: sums of another order, and what one rounding to int8 then moves. Parts that are mixed
up, or that lose their batch on the way, are off by the difference between two images."""
_REMEDY: Final = "set engine.batch: 1"


def for_batch(model: onnx.ModelProto, parts: int) -> None:
    """Make `model` (fixed shapes, one part, edited in place) take and give `parts` parts: (N, ...) for (1, ...).

    The batch stays the outermost dimension of every value that depends on the part; where channels were folded into it,
    N times as many stand there. Raises EngineUnavailable where the graph's shapes do not allow it.
    """
    graph = Graph(model)
    names = {port.name for port in (*model.graph.input, *model.graph.output)}
    made: dict[str, str] = {}
    for node in graph.nodes:
        place = SHAPE_INPUT.get(node.op_type)
        if place is not None and len(node.input) > place and node.input[place]:
            node.input[place] = _for_batch(graph, node, place, parts, made)
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value *= parts
    drop_unread(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except InferenceError as error:
        raise EngineUnavailable(f"the graph cannot take {parts} parts at once ({_first(error)}); {_REMEDY}") from error
    sizes = {port.name: port.type.tensor_type.shape.dim[0].dim_value for port in inferred.graph.output}
    if any(sizes[name] != parts for name in names if name in sizes):
        raise EngineUnavailable(f"the graph cannot take {parts} parts at once (outputs of {sizes} parts); {_REMEDY}")


def _for_batch(graph: Graph, node: onnx.NodeProto, place: int, parts: int, made: dict[str, str]) -> str:
    """The name of the stated shape for `parts` parts; a leading 1 of Expand, -1 or 0 follows the batch by itself."""
    name = str(node.input[place])
    if not graph.depends(node.input[0], INPUT_NAME):
        return name
    shape = graph.constant(name)
    if shape is None:
        raise EngineUnavailable(
            f"the graph cannot take {parts} parts at once ({node.name}: its shape is computed); {_REMEDY}"
        )
    if shape[0] < 1 or (node.op_type == "Expand" and shape[0] == 1):
        return name
    if name not in made:
        made[name] = f"{name}.x{parts}"
        wider = np.concatenate([shape[:1] * parts, shape[1:]]).astype(shape.dtype)
        graph.model.graph.initializer.append(numpy_helper.from_array(wider, made[name]))
    return made[name]


def check_batch(single: bytes, together: bytes, parts: int, precision: PlanPrecision) -> None:
    """Run `parts` different images through both models by ONNX Runtime: each must get what it gets alone.

    Blocks for seconds. Raises EngineUnavailable where it does not, or without ONNX Runtime.
    """
    images = _images(single, parts)
    expected = [_answers(single, image[None]) for image in images]
    found = _answers(together, images)
    for name, values in found.items():
        alone = np.concatenate([answer[name] for answer in expected])
        if values.shape != alone.shape:
            raise EngineUnavailable(f"{name} of {parts} parts is {values.shape}, expected {alone.shape}; {_REMEDY}")
        scale = max(float(np.abs(alone).max()), float(np.finfo(np.float32).tiny))
        worst = float(np.abs(values - alone).max()) / scale
        if not worst <= TOLERANCE[precision]:
            raise EngineUnavailable(
                f"{name} of {parts} parts at once is off by {worst:.2g} from one by one, allowed is "
                f"{TOLERANCE[precision]:g}; {_REMEDY}"
            )


def _answers(model: bytes, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Every output for (N, H, W, 3) images."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnavailable(
            f"engine.batch above 1 needs ONNX Runtime, which cannot be imported ({error}): pip install 'inspectd[gpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {INPUT_NAME: images}), strict=True))


def _images(model: bytes, count: int) -> NDArray[np.uint8]:
    """(count, H, W, 3) coarse noise of the model's own size, the same each time."""
    (port,) = onnx.ModelProto.FromString(model).graph.input
    _, height, width, channels = (side.dim_value for side in port.type.tensor_type.shape.dim)
    coarse = np.random.default_rng(0).integers(0, 256, (count, -(-height // 8), -(-width // 8), channels), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width])


def _first(error: Exception) -> str:
    """The first line of what onnx says, which names the node."""
    return str(error).strip().splitlines()[0][:300]
