"""A fused graph drawn by hand, without torch: each kind of node that the GPU path treats in its own way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

REGIONS = 2
SIDE = 8
LAMBDAS = (0.5, 0.8)
FACTORS = (3.0, 4.0)


@dataclass
class Drawing:
    """Nodes and constants so far."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def node(self, kind: str, scope: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Draw a node of a submodule; the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{scope}/{output}", **attributes))
        return output

    def constant(self, name: str, values: NDArray[np.generic] | tuple[int, ...]) -> str:
        """Draw a constant; its name."""
        array = values if isinstance(values, np.ndarray) else self.rng.normal(0, 0.3, values).astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, name: str, *values: int) -> str:
        """Draw a constant of int64."""
        return self.constant(name, np.array(values, np.int64))


def fused_graph(join: str = "Add", *, decoder: bool = True, largest: float = 1.0) -> onnx.ModelProto:
    """A fused engine of 8x8 pixels and two regions; join: how Patch_GMSD meets the features (Add, Mul, Sub, or none).

    Mul is written as `score: paper` exports it, lambda_r beside the features. largest: scales one constant.
    """
    made = Drawing()
    made.node("Transpose", "network", ["part"], "planes_u8", perm=[0, 3, 1, 2])
    made.node("Cast", "network", ["planes_u8"], "planes", to=TensorProto.FLOAT)
    made.node("Mul", "network", ["planes", made.constant("factor", np.array([1 / 255], np.float32))], "scaled")
    _features(made, largest)
    made.node("ReduceMean", "tail", ["squares", made.integers("channels", 1)], "anomaly_map", keepdims=0)
    made.node("Flatten", "tail", ["anomaly_map"], "cells")
    outputs = {"anomaly_map": [1, SIDE // 2, SIDE // 2]}
    if decoder:
        _reconstruct(made)
        outputs["reconstruction"] = [1, SIDE, SIDE]
    _score(made, join if decoder else "")
    ports = {"part_score": [1], "region_scores": [1, REGIONS]} | outputs
    graph = helper.make_graph(
        made.nodes,
        "fused",
        [helper.make_tensor_value_info("part", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports.items()],
        made.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _features(made: Drawing, largest: float) -> None:
    """Two convolutions, an upsampled skip, and a squared distance that only the tail reads."""
    made.constant("weight_1", (4, 3, 3, 3))
    made.constant("weight_2", (4, 4, 3, 3))
    made.node("Conv", "network.student", ["scaled", "weight_1"], "first", strides=[2, 2], pads=[1, 1, 1, 1])
    made.node(
        "Clip",
        "network.student",
        [
            "first",
            made.constant("low", np.array(0, np.float32)),
            made.constant("high", np.array(largest * 6, np.float32)),
        ],
        "clipped",
    )
    made.node("Conv", "network.student", ["clipped", "weight_2"], "second", strides=[2, 2], pads=[1, 1, 1, 1])
    sizes = made.integers("sizes", 1, 4, SIDE // 2, SIDE // 2)
    made.node("Resize", "network.student", ["second", "", "", sizes], "resized", mode="linear")
    made.node("Sub", "network", ["resized", made.constant("centre", (1, 4, 1, 1))], "centred")
    made.node("Mul", "tail", ["centred", "centred"], "squares")


def _reconstruct(made: Drawing) -> None:
    made.constant("weight_3", (4, 1, 2, 2))
    made.node("ConvTranspose", "network.decoder", ["clipped", "weight_3"], "logits", strides=[2, 2])
    made.node("Sigmoid", "network.decoder", ["logits"], "shown")
    made.node("Squeeze", "network.decoder", ["shown", made.integers("axis", 1)], "reconstruction")
    made.node("ReduceMean", "tail", ["planes", made.integers("colours", 1)], "grey", keepdims=0)
    made.node("Sub", "tail.patch_gmsd", ["grey", "reconstruction"], "unlike")
    made.node("Flatten", "tail.patch_gmsd.groups.0", ["unlike"], "patches")
    made.node("MatMul", "tail.patch_gmsd", ["patches", made.constant("sums", (SIDE * SIDE, REGIONS))], "patch_gmsd")


def _score(made: Drawing, join: str) -> None:
    """Region scores and part score, with or without Patch_GMSD."""
    lambdas = np.array([LAMBDAS], np.float32)
    made.node("MatMul", "tail", ["cells", made.constant("masks", ((SIDE // 2) ** 2, REGIONS))], "in_regions")
    if join == "Mul":
        axes = made.integers("all_cells", 1)
        made.node("ReduceMax", "tail", ["cells", axes], "highest", keepdims=1)
        made.node("Mul", "tail", ["highest", made.constant("lambdas", lambdas)], "weighted")
        made.node("Mul", "tail", ["weighted", "patch_gmsd"], "region_scores")
    elif join == "alone":
        made.node("Mul", "tail", ["patch_gmsd", made.constant("lambdas", lambdas)], "region_scores")
    elif join:
        made.node(
            "Mul",
            "tail",
            ["patch_gmsd", made.constant("weights", lambdas * np.array([FACTORS], np.float32))],
            "weighted",
        )
        made.node(join, "tail", ["in_regions", "weighted"], "region_scores")
    else:
        made.node("Identity", "tail", ["in_regions"], "region_scores")
    made.node("ReduceMax", "tail", ["region_scores", made.integers("regions", 1)], "part_score", keepdims=0)


def part(seed: int = 0) -> NDArray[np.uint8]:
    """A part image as a batch of one."""
    return np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
