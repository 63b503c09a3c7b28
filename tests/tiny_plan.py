"""A plan small enough for tests: an ONNX graph with a cut engine's ports, and what it must answer. Not a test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.patch_gmsd import patch_gmsd
from engines.plans import PatchStage, Plan, PlanKey
from engines.preprocess import LUMA
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings

CANVAS = CanvasSettings(height_px=32, width_px=32)
REGIONS = (
    RegionSettings(name="left", top_px=4, left_px=2, height_px=12, width_px=12, patches=((2, 2), (1, 1))),
    RegionSettings(name="right", top_px=9, left_px=16, height_px=12, width_px=15, patches=((1, 2),)),
)
STAGE = PatchStage(
    combine="add",
    canvas=CANVAS,
    regions=REGIONS,
    patch_gmsd=PatchGmsdSettings(),
    lambdas=(1.0, 0.5),
    patch_factor=(3.0, 5.0),
)
KEY = PlanKey(graph_sha256="0" * 64, gpu="fake", sm=86, package="tensorrt", version="0", precision="f32")
FADE = 0.75
"""The "decoder": the reconstruction is the grey image times this."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What one part must get, in float64."""

    part_score: float
    region_scores: NDArray[np.float64]
    anomaly_map: NDArray[np.float64]
    reconstruction: NDArray[np.float64]


def tiny_plan(*, batch: int = 1, cut: bool = True) -> Plan:
    """Grey, its mean over 4 x 4 pixels as the map, the map's highest cells of either half as feature scores.

    cut: Patch_GMSD follows as kernels; otherwise the feature scores are the region scores.
    """
    height, width = CANVAS.height_px, CANVAS.width_px
    constants = {
        "luma": np.array(LUMA, np.float32) / 255,
        "fade": np.float32(FADE),
        "blocks": np.array([batch, height // 4, 4, width // 4, 4]),
        "block_axes": np.array([2, 4]),
        "axis_2": np.array([2]),
        "halves": np.array([batch, height // 4, 2, width // 8]),
        "half_axes": np.array([1, 3]),
        "last": np.array([3]),
        "axis_1": np.array([1]),
    }
    scores = "feature_scores" if cut else "region_scores"
    nodes = [
        helper.make_node("Cast", ["part"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "luma"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "last"], ["grey"], keepdims=0),
        helper.make_node("Reshape", ["grey", "blocks"], ["cut_up"]),
        helper.make_node("ReduceMean", ["cut_up", "block_axes"], ["anomaly_map"], keepdims=0),
        helper.make_node("Reshape", ["anomaly_map", "halves"], ["in_halves"]),
        helper.make_node("ReduceMax", ["in_halves", "half_axes"], [scores], keepdims=0),
    ]
    outputs: dict[str, tuple[int, ...]] = {scores: (batch, 2), "anomaly_map": (batch, height // 4, width // 4)}
    if cut:
        nodes.append(helper.make_node("Mul", ["grey", "fade"], ["reconstruction"]))
        outputs["reconstruction"] = (batch, height, width)
    else:
        nodes.append(helper.make_node("ReduceMax", [scores, "axis_1"], ["part_score"], keepdims=0))
        outputs["part_score"] = (batch,)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("part", TensorProto.UINT8, (batch, height, width, 3))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return Plan(KEY, model.SerializeToString(), STAGE if cut else None)


def expected(image: NDArray[np.uint8], *, cut: bool = True) -> Expected:
    """The reference's answer for one (H, W, 3) uint8 RGB part image."""
    grey = (image.astype(np.float64) * np.array(LUMA)).sum(axis=2) / 255
    cells = grey.reshape(grey.shape[0] // 4, 4, grey.shape[1] // 4, 4).mean(axis=(1, 3))
    regions = cells.reshape(cells.shape[0], 2, -1).max(axis=(0, 2))
    if cut:
        weights = np.array(STAGE.lambdas) * np.array(STAGE.patch_factor)
        regions = regions + weights * patch_gmsd(grey, grey * FADE, REGIONS, STAGE.patch_gmsd)
    return Expected(float(regions.max()), regions, cells, grey * FADE)


def part_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, H, W, 3) coarse noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, CANVAS.height_px // 4, CANVAS.width_px // 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(4, axis=1).repeat(4, axis=2))
