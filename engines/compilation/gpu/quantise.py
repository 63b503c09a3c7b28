"""Q/DQ nodes for an int8 engine: symmetric ranges from good parts, around the convolutions outside the tail."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import version_converter

from engines.compilation.gpu.editing import drop_unread
from engines.compilation.precision import CALIBRATION_PARTS, FIRST_LEVEL
from engines.compilation.scopes import is_exact
from engines.errors import EngineUnavailable
from engines.runtimes.openvino import INPUT_NAME

HALF_SCALES_OPSET: Final = 19
"""The first ONNX whose Q/DQ nodes take float16."""
QUANTISED: Final = ("Conv",)
"""Deconvolutions are left out: the decoder's reconstruction is compared pixel by pixel."""


def quantise(model: onnx.ModelProto, good_parts: NDArray[np.uint8]) -> onnx.ModelProto:
    """`model` with Q/DQ before its convolutions: int8, zero point 0, weights by output channel; the rest is float32.

    The teachers' first level, which rounds most, and the tail stay as they are. good_parts: (P, H, W, 3) uint8 RGB, of
    which at most CALIBRATION_PARTS are shown. Blocks for seconds. Raises EngineUnavailable without ONNX Runtime,
    ValueError without parts.
    """
    if len(good_parts) == 0:
        raise ValueError("int8 needs good parts to take its ranges from")
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise EngineUnavailable(
            f"int8 needs ONNX Runtime, which cannot be imported ({error}): pip install 'inspectd[gpu]'"
        ) from error
    kept = [node.name for node in model.graph.node if is_exact(node.name) or re.match(FIRST_LEVEL, node.name)]
    chosen = np.linspace(0, len(good_parts) - 1, min(CALIBRATION_PARTS, len(good_parts))).round().astype(int)
    with tempfile.TemporaryDirectory(prefix="inspectd-int8-") as folder, _quietly():
        quantised = Path(folder, "int8.onnx")
        quantization.quantize_static(
            model,
            quantised,
            _Parts(good_parts[index] for index in chosen),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=kept,
            extra_options={
                "ActivationSymmetric": True,  # TensorRT knows no zero point but 0
                "QuantizeBias": False,
                "AddQDQPairToWeight": True,
                "OpTypesToExcludeOutputQuantization": list(QUANTISED),
            },
        )
        made = version_converter.convert_version(onnx.load(quantised), HALF_SCALES_OPSET)
    _spare_other_readers(made, frozenset(kept))
    return made


@contextmanager
def _quietly() -> Iterator[None]:
    """Hold back advice on ONNX Runtime's own graph rewrites, which it gives through the root logger."""
    root, disabled, nobody = logging.getLogger(), logging.root.manager.disable, logging.NullHandler()
    root.addHandler(nobody)  # without one, the first message would set logging up for the whole process
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(nobody)


def _spare_other_readers(model: onnx.ModelProto, kept: frozenset[str]) -> None:
    """Let only convolutions not `kept` read what was rounded to int8; ONNX Runtime hands it to all who read the value.

    What the tail compares, what is added on the way round a block, and what a first level shares with a student's
    convolutions stays unrounded.
    """
    makers = {value: node for node in model.graph.node for value in node.output}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" or (node.op_type in QUANTISED and node.name not in kept):
            continue
        for place, value in enumerate(node.input):
            maker = makers.get(value)
            if maker is not None and maker.op_type == "DequantizeLinear":
                node.input[place] = makers[maker.input[0]].input[0]  # what the QuantizeLinear before it reads
    drop_unread(model)


class _Parts:
    """onnxruntime's CalibrationDataReader: hands out one part after the other, then None."""

    def __init__(self, parts: Iterator[NDArray[np.uint8]]) -> None:
        self._parts = parts

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next part as a batch of one."""
        part = next(self._parts, None)
        return None if part is None else {INPUT_NAME: part[None]}
