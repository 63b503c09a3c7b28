"""The typed ONNX of every family and precision: valid, linted, and the network's own answers; on this CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from families import LAMBDAS, REGIONS, Family, part_images
from numpy.typing import NDArray

from engines.compilation.gpu.cut import patch_factors
from engines.errors import EngineUnavailable
from engines.patch_gmsd import patch_gmsd
from engines.plans import PlanPrecision
from engines.preprocess import LUMA
from engines.runtimes.openvino import import_openvino

pytestmark = pytest.mark.gpu_path
PRECISIONS: Final[tuple[PlanPrecision, ...]] = ("f32", "f16", "int8")
TOLERANCE: Final = {"f32": 1e-4, "f16": 5e-2, "int8": 0.5}
"""Of the largest value. Weights are random, so int8 shows wrong wiring only: parity is judged on each real bundle."""
OF_ITS_OWN: Final = "can't constant fold Mul node"
"""ONNX Runtime says so, linting int8, of nodes for biases that it added itself and has no float16 kernel for."""
Answers = dict[str, NDArray[np.float32]]


def by_onnxruntime(model: bytes, *parts: NDArray[np.uint8]) -> Answers:
    """What ONNX Runtime gives on the CPU; where it has no float16 kernel it computes in float32 and rounds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"part": np.stack(parts)}), strict=True))


def by_openvino(model: bytes, part: NDArray[np.uint8]) -> Answers:
    """What OpenVINO gives in float32."""
    ov = import_openvino()
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    outputs = compiled.create_infer_request().infer({"part": part[None]})
    return {name: np.array(outputs[port]) for port in compiled.outputs for name in port.names}


def final_scores(family: Family, precision: PlanPrecision, answers: Answers, part: NDArray[np.uint8]) -> Answers:
    """The answers with the scores that the kernel would add, by the float64 reference of Patch_GMSD."""
    cut = family.typed(precision).cut
    if cut is None:
        return answers
    grey = part.astype(np.float64) @ np.array(LUMA) / 255
    reconstruction = answers["reconstruction"][0].astype(np.float64)
    term = np.array(patch_factors(cut, LAMBDAS)) * np.array(LAMBDAS)
    term *= patch_gmsd(grey, reconstruction, REGIONS, family.model.patch_gmsd)
    features = answers["feature_scores"]
    scores = features + term if cut.combine == "add" else features * term
    kept = {name: value for name, value in answers.items() if name != "feature_scores"}
    return kept | {"region_scores": scores, "part_score": scores.max(axis=1)}


def distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnxruntime_answers_as_torch_does(family: Family, precision: PlanPrecision) -> None:
    """Cut, typed and joined again, a graph gives the network's own answers, as near as its types allow."""
    part = part_images(1, seed=5)[0].copy()
    part[20:44, 20:44] = np.random.default_rng(0).integers(0, 256, (24, 24, 3))  # scores of good parts lie around zero
    expected = family.answers(part)
    found = final_scores(family, precision, by_onnxruntime(family.typed(precision).model, part), part)
    assert set(found) == set(expected)
    limit = TOLERANCE[precision]
    assert distance(found["anomaly_map"], expected["anomaly_map"]) < limit
    if "reconstruction" in expected:
        assert distance(found["reconstruction"], expected["reconstruction"]) < limit
    for name in ("part_score", "region_scores"):
        # Calibrated scores lie around zero, in deviations: what counts is the error beside one deviation.
        scale = max(1.0, float(np.abs(expected[name]).max())) if family.model.score == "calibrated" else None
        worst = float(np.abs(found[name] - expected[name]).max()) / (scale or float(np.abs(expected[name]).max()))
        assert worst < 2 * limit, name


def test_a_memory_in_two_steps_answers_as_torch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The farthest cells, their patches and their places come through the typed graph."""
    family = Family.searched_in_two_steps(tmp_path, monkeypatch)
    part = part_images(1, seed=5)[0]
    expected = family.answers(part)
    found = by_onnxruntime(family.typed("f32").model, part)
    assert {"TopK", "GatherElements", "ScatterElements"} <= {
        node.op_type for node in onnx.load(family.graph).graph.node
    }
    for name, values in expected.items():
        assert distance(found[name], values) < TOLERANCE["f32"], name


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_batch_gets_the_answers_of_its_parts(family: Family, precision: PlanPrecision) -> None:
    """Three different parts in one inference get what each of them gets alone from the graph for one."""
    parts = part_images(3, seed=7)
    together = by_onnxruntime(family.typed(precision, batch=3).model, *parts)
    alone = [by_onnxruntime(family.typed(precision).model, part) for part in parts]
    for name, values in together.items():
        assert len(values) == 3
        assert distance(values, np.concatenate([answers[name] for answers in alone])) < TOLERANCE[precision], name
    assert distance(together["anomaly_map"][0], together["anomaly_map"][1]) > TOLERANCE["f32"]


def test_openvino_answers_as_torch_does(family: Family) -> None:
    """A second reader of the f32 graph finds the same in it."""
    part = part_images(1, seed=6)[0]
    expected = family.answers(part)
    found = final_scores(family, "f32", by_openvino(family.typed("f32").model, part), part)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=2e-3 * float(np.abs(values).max()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_polygraphy_finds_nothing_to_complain_of(family: Family, precision: PlanPrecision, tmp_path: Path) -> None:
    """The graph passes onnx's own checker in full, and `polygraphy check lint` without a warning or an error."""
    path, report = tmp_path / "graph.onnx", tmp_path / "lint.json"
    path.write_bytes(family.typed(precision).model)
    onnx.checker.check_model(path, full_check=True)
    command = [str(Path(sys.executable).with_name("polygraphy")), "check", "lint", str(path), "-o", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    told = json.loads(report.read_text())
    assert told["summary"]["failing"] == []
    assert [entry for entry in told["lint_entries"] if OF_ITS_OWN not in entry["message"]] == []


def test_int8_is_where_the_convolutions_are(family: Family) -> None:
    """Convolutions outside first level, tail and memory read int8 on both sides, nothing else; zero points are 0."""
    graph = onnx.ModelProto.FromString(family.typed("int8").model).graph
    makers = {value: node for node in graph.node for value in node.output}
    served = set()
    for node in graph.node:
        sources = [makers[value].op_type for value in node.input[:2] if value in makers]
        if node.op_type == "Conv" and sources == ["DequantizeLinear", "DequantizeLinear"]:
            served.add(node.name)
        elif "DequantizeLinear" in sources and node.op_type != "DequantizeLinear":
            pytest.fail(f"{node.name} ({node.op_type}) reads int8")
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    exact = ("tail", "network.memory")
    left = {name for name in convolutions - served if not name.startswith(exact) and ".stages.0" not in name}
    assert bool(served) == ("dinov2_small" not in family.model.teachers)  # whose one convolution is its first level
    assert not left
    zeros = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if "zero_point" in tensor.name
    }
    assert all(not values.any() and values.dtype == np.int8 for values in zeros.values())


def test_patch_gmsd_alone_has_no_plan(tmp_path: Path) -> None:
    """The ablation `features: false`, exported as calibration does: one line that says what to set, and no graph."""
    ablation = Family("dtkd, paper", tmp_path, changes={"features": False})
    with pytest.raises(EngineUnavailable, match=r"model\.features: false .*set engine\.runtime: openvino") as refused:
        ablation.typed("f16")
    assert "\n" not in str(refused.value)
