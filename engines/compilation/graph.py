"""The first step of compilation: trained fused network -> graph.onnx, the single source of every compiled engine."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import onnx
import torch
from torch import nn

from engines.compilation.rewrite import TRANSLATIONS, faster_equivalent
from engines.compilation.scopes import TAIL, within
from engines.runtimes.openvino import INPUT_NAME, OUTPUT_NAMES
from engines.settings import CanvasSettings
from engines.writing import writing

OPSET: Final = 18
_SCOPES: Final = "pkg.torch.onnx.name_scopes"


def export_graph(module: nn.Module, canvas: CanvasSettings, regions: int, path: Path) -> None:
    """Write `module` (FusedEngine's signature, batch 1) to `path` as ONNX, nodes named by their submodule.

    Blocks for some seconds. Raises ValueError where names, types or shapes are not those of a fused engine, or
    where nothing is in a submodule `tail`.
    """
    part = torch.zeros(1, canvas.height_px, canvas.width_px, 3, dtype=torch.uint8)
    module = module.eval()
    with torch.no_grad():
        names = OUTPUT_NAMES[: len(module(part))]
        program = torch.onnx.export(
            faster_equivalent(module),
            (part,),
            custom_translation_table=TRANSLATIONS,
            input_names=[INPUT_NAME],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch.onnx.export returned no graph")
    model = program.model_proto
    _name_nodes(model.graph)
    check_graph(model, canvas, regions)
    with writing(path):
        onnx.save(model, path)


def check_graph(model: onnx.ModelProto, canvas: CanvasSettings, regions: int) -> None:
    """Raise ValueError unless `model` is valid ONNX with a fused engine's input, outputs and `tail`."""
    onnx.checker.check_model(model, full_check=True)
    height, width = canvas.height_px, canvas.width_px
    ports = {port.name: port.type.tensor_type for port in (*model.graph.input, *model.graph.output)}
    shapes = {name: tuple(size.dim_value for size in port.shape.dim) for name, port in ports.items()}
    expected = {INPUT_NAME: (1, height, width, 3), "part_score": (1,), "region_scores": (1, regions)}
    if "reconstruction" in shapes:
        expected["reconstruction"] = (1, height, width)
    found = {name: shape for name, shape in shapes.items() if name != "anomaly_map"}
    anomaly_map = shapes.get("anomaly_map", ())
    if found != expected or len(anomaly_map) != 3 or anomaly_map[0] != 1 or 0 in anomaly_map:
        raise ValueError(f"the fused graph has ports {shapes}; expected {expected} and anomaly_map (1, H1, W1)")
    types = {onnx.TensorProto.DataType.Name(port.elem_type) for name, port in ports.items() if name != INPUT_NAME}
    if types != {"FLOAT"} or ports[INPUT_NAME].elem_type != onnx.TensorProto.UINT8:
        raise ValueError("the fused graph must take uint8 and answer in float32")
    if not any(within(node.name, TAIL) for node in model.graph.node):
        raise ValueError("the fused network keeps its scores in a submodule `tail`; the graph has no such nodes")


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Prefix each node's name with the path of the submodule it comes from: profiles and `tail` are read off it."""
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        node.name = f"{modules[-1]}/{node.name}" if modules else node.name
