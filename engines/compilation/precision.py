"""The second step of compilation: graph.onnx -> one OpenVINO model per precision, its `tail` always in f32."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from engines.compilation.scopes import is_exact
from engines.errors import EngineUnavailable
from engines.runtimes.openvino import Precision, import_openvino
from engines.writing import writing

if TYPE_CHECKING:
    from openvino import Model

CALIBRATION_PARTS: Final = 100
"""Good parts that int8 ranges are taken from; more than this moves the ranges by less than the bin width."""


FIRST_LEVEL: Final = r"network\.teachers\.\d+\.stages\.0[./]"
"""Names of the nodes of the teachers' first level, which rounds most (docs/engine.md)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the graph: a precision, and which nodes (a pattern on their names) stay in f32 beside the tail."""

    name: str
    precision: Precision
    exact: str = ""


VARIANTS: Final = (
    Variant("f32", "f32"),
    Variant("bf16", "bf16"),
    Variant("bf16, first teacher level f32", "bf16", FIRST_LEVEL),
    Variant("int8", "int8"),
    Variant("int8, first teacher level f32", "int8", FIRST_LEVEL),
)
"""What can be built, the reference first."""

_NOT_COMPUTED: Final = frozenset({"Constant", "Parameter", "Result"})


def variants_of(graph: Path, precision: str) -> list[Variant]:
    """The variants worth building of `graph` for a setting (`auto` or a precision by name): f32, then those.

    `auto` tries bf16 alone beside f32. int8 has to be asked for by name: it takes longer to build than the rest of a
    calibration's fixed part, and ranks of parts change (docs/engine.md).
    """
    names = [node.name for node in onnx.load(graph).graph.node]
    return [
        variant
        for variant in VARIANTS
        if variant.precision in {"f32", precision} | ({"bf16"} if precision == "auto" else set())
        if not variant.exact or any(re.match(variant.exact, name) for name in names)
    ]


def build_model(graph: Path, variant: Variant, good_parts: NDArray[np.uint8], model: Path) -> None:
    """Write `model` (.xml, and .bin beside it): `graph` as OpenVINO runs that variant; int8 blocks for seconds.

    good_parts: (P, H, W, 3) uint8 RGB, from which int8 takes its activation ranges; other precisions ignore it.
    Raises EngineUnavailable where int8 is asked for and NNCF is not installed.
    """
    ov = import_openvino()
    built: Model = ov.convert_model(graph)
    _settle_interpolations(ov, built)
    exact = _exact(built, variant.exact)
    if variant.precision == "int8":
        built = _quantise(built, exact, good_parts)
    with writing(Path(model)):
        ov.save_model(built, model, compress_to_fp16=False)
    _keep_precise(model, frozenset(exact))


def _settle_interpolations(ov: ModuleType, model: Model) -> None:
    """Replace Interpolate-11 by Interpolate-4, which is what the CPU runs.

    OpenVINO does the same when it compiles, but forgets the mark of `_keep_precise` on the way.
    """
    for old in model.get_ordered_ops():
        if old.get_type_name() != "Interpolate" or old.get_type_info().version_id != "opset11":
            continue
        wanted = old.get_attributes()
        if wanted["shape_calculation_mode"] != "sizes":
            raise ValueError(f"{old.get_friendly_name()}: the exporter gave scales; expected sizes")
        image, sizes, *given = old.input_values()
        axes = np.arange(len(image.get_shape())) if not given else given[0].get_node().get_data()
        new = ov.opset10.interpolate(
            image,
            sizes,
            np.ones(len(axes), dtype=np.float32),
            wanted["mode"],
            "sizes",
            axes=axes.astype(np.int64),
            coordinate_transformation_mode=wanted["coordinate_transformation_mode"],
            nearest_mode=wanted["nearest_mode"],
        )
        new.set_friendly_name(old.get_friendly_name())
        ov.utils.replace_node(old, new)
    model.validate_nodes_and_infer_types()


def _exact(model: Model, pattern: str) -> list[str]:
    """Names of the operations of the submodule `tail`, of all that is computed from them, and of those that match."""
    names: list[str] = []
    inside: set[str] = set()
    for operation in model.get_ordered_ops():
        name = operation.get_friendly_name()
        if operation.get_type_name() in _NOT_COMPUTED:
            continue
        sources = {value.get_node().get_friendly_name() for value in operation.input_values()}
        if is_exact(name) or sources & inside:
            inside.add(name)
            names.append(name)
        elif pattern and re.match(pattern, name):
            names.append(name)
    return names


def _quantise(model: Model, exact: list[str], good_parts: NDArray[np.uint8]) -> Model:
    """NNCF's post-training quantisation of all but `exact`, symmetric weights and asymmetric activations.

    Weights take half of their range: products of 8 bits saturate on processors without VNNI, and a bundle may run on an
    older processor than the one that calibrated it.
    """
    if len(good_parts) == 0:
        raise ValueError("int8 needs good parts to take its ranges from")
    try:
        with _without_chatter():
            import nncf
    except ImportError as error:
        raise EngineUnavailable(
            f"int8 needs NNCF, which cannot be imported ({error}): pip install 'inspectd[calibrate]'"
        ) from error
    chosen = np.linspace(0, len(good_parts) - 1, min(CALIBRATION_PARTS, len(good_parts))).round().astype(int)
    with _without_chatter():
        quantised: Model = nncf.quantize(
            model,
            nncf.Dataset([good_parts[index][None] for index in chosen]),  # (1, H, W, 3)
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(chosen),
            fast_bias_correction=True,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
            ignored_scope=nncf.IgnoredScope(names=exact),
        )
    return quantised


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back NNCF's progress bars and its advice about CUDA: progress is told by the caller."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _keep_precise(model: Path, exact: frozenset[str]) -> None:
    """Mark these layers `precise`, so that a bf16 engine computes them in f32.

    The attribute is OpenVINO's own (`DisableFP16Compression`); its Python API cannot set it, its IR reader can.
    """
    tree = ET.parse(model)  # noqa: S314 - our own file, written a moment ago
    for layer in tree.iterfind("./layers/layer"):
        if layer.get("name") not in exact or layer.get("type") in {"Const", "Result"}:
            continue
        info = layer.find("rt_info")
        if info is None:
            info = ET.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, info)
        if not any(entry.get("name") == "precise" for entry in info):
            ET.SubElement(info, "attribute", {"name": "precise", "version": "0"})
    tree.write(model, encoding="utf-8", xml_declaration=True)
