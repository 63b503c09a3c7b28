from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from tiny_engine import CANVAS, REGIONS, TinyEngine, part_images
from torch import Tensor, nn

from engines.compilation.graph import export_graph
from engines.compilation.parity import (
    Candidate,
    PartScores,
    fastest,
    judge,
    own_quantile,
    parity_rows,
    relative_errors,
)
from engines.compilation.precision import Variant, build_model
from engines.compilation.rewrite import ShuffledConvolution, faster_equivalent
from engines.compile import CompiledEngine, compile_engine
from engines.errors import EngineUnavailable, ParityError
from engines.runtimes import infer
from engines.runtimes.openvino import OpenVinoRuntime, Precision, import_openvino
from engines.settings import EngineSettings

PARTS = part_images(24)


def compile_tiny(out: Path, precision: str = "auto", module: nn.Module | None = None) -> CompiledEngine:
    """The tiny engine compiled with few parts."""
    return compile_engine(
        module or TinyEngine(),
        canvas=CANVAS,
        regions=REGIONS,
        out=out,
        engine=EngineSettings.model_validate({"precision": precision}),
        calibration_images=PARTS,
        parity_images=PARTS,
        verdicts=own_quantile(0.1),
    )


def scores(part: list[float]) -> PartScores:
    """Scores of one region, which is the part."""
    values = np.array(part, dtype=np.float64)
    return PartScores(values, values[:, None])


def test_auto_keeps_the_fastest_that_keeps_parity(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The table has a row for each precision; the one marked is in the bundle and loads; nothing is printed."""
    steps: list[tuple[str, int, int]] = []
    compiled = compile_engine(
        TinyEngine(),
        canvas=CANVAS,
        regions=REGIONS,
        out=tmp_path,
        engine=EngineSettings(),
        calibration_images=PARTS,
        parity_images=PARTS,
        verdicts=own_quantile(0.1),
        progress=lambda what, done, total: steps.append((what, done, total)),
    )
    rows = {row.precision: row for row in compiled.parity}
    good = [row for row in compiled.parity if row.rank_correlation >= 0.999 and row.verdict_changes == 0]
    assert {"f32"} <= set(rows) <= {"f32", "bf16"}
    assert [row.precision for row in compiled.parity if row.kept] == [compiled.precision]
    assert rows[compiled.precision] in good
    assert compiled.network_error < 1e-4
    assert steps[0][0] == "export"
    assert all(done <= total for _, done, total in steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.bin", "engine.xml", "graph.onnx"]
    runtime = OpenVinoRuntime(compiled.files["model"], compiled.precision)
    assert np.isfinite(infer(runtime, PARTS[0]).part_score)
    assert capfd.readouterr() == ("", "")


def test_what_auto_leaves_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that cannot be built here costs auto that variant alone, and the result says which and why."""

    def build(graph: Path, variant: Variant, good_parts: NDArray[np.uint8], model: Path) -> None:
        if variant.precision == "bf16":
            raise EngineUnavailable("no such kernel")
        build_model(graph, variant, good_parts, model)

    monkeypatch.setattr("engines.compile.build_model", build)
    compiled = compile_tiny(tmp_path)
    assert any("bf16" in line and "no such kernel" in line for line in compiled.left_out)
    assert "bf16" not in {row.precision for row in compiled.parity}


def test_precision_by_name(tmp_path: Path) -> None:
    """A precision asked for by name is built, with f32 beside it in the table."""
    compiled = compile_tiny(tmp_path, "f32")
    assert (compiled.precision, [row.precision for row in compiled.parity]) == ("f32", ["f32"])
    compiled = compile_engine(
        TinyEngine(),
        canvas=CANVAS,
        regions=REGIONS,
        out=tmp_path,
        engine=EngineSettings(precision="int8"),
        calibration_images=PARTS,
        parity_images=PARTS,
        verdicts=lambda part, regions: np.zeros(len(part), dtype=np.bool_),
    )
    assert (compiled.precision, [row.precision for row in compiled.parity]) == ("int8", ["f32", "int8"])


def test_precision_that_changes_verdicts_is_refused(tmp_path: Path) -> None:
    """Asked for by name or not, an engine that judges a part differently from f32 does not go into a bundle."""
    with pytest.raises(ParityError, match=r"int8 is refused: .*verdicts change"):
        compile_engine(
            TinyEngine(),
            canvas=CANVAS,
            regions=REGIONS,
            out=tmp_path,
            engine=EngineSettings(precision="int8"),
            calibration_images=PARTS,
            parity_images=PARTS,
            verdicts=lambda part, regions: (part * 1e7).astype(np.int64) % 2 == 0,
        )


class ExportedOtherwise(TinyEngine):
    """What a fault of the compiler looks like: the graph is not the network."""

    def __init__(self, factor: float, above: float) -> None:
        super().__init__()
        self.factor, self.above = factor, above

    def forward(self, part: Tensor) -> tuple[Tensor, ...]:
        """Part scores that are `factor` times as high in the graph, where they are higher than `above`."""
        score, *others = super().forward(part)
        if torch.compiler.is_exporting():
            score = score * torch.where(score > self.above, self.factor, 1.0)
        return (score, *others)


@pytest.mark.parametrize(("factor", "share"), [(1.01, 1.0), (1.0003, 1.0), (1.01, 0.1)])
def test_graph_that_is_not_the_network_is_refused(tmp_path: Path, factor: float, share: float) -> None:
    """A compiled f32 engine that differs a little on every part, or much on a few, is a ParityError."""
    with torch.inference_mode():
        scores = [float(TinyEngine()(torch.from_numpy(part[None]))[0]) for part in PARTS]
    with pytest.raises(ParityError, match="differs from the trained network"):
        compile_tiny(tmp_path, "f32", ExportedOtherwise(factor, float(np.quantile(scores, 1 - share)) - 1e-9))


class WithoutTail(nn.Module):
    """Right ports, wrong structure."""

    def forward(self, part: Tensor) -> tuple[Tensor, ...]:
        """Scores straight from the grey values."""
        maps = part.float().mean(dim=3)
        regions = maps.amax(dim=(1, 2)).repeat(1, REGIONS)
        return regions.amax(dim=1), regions, maps


def test_network_without_a_tail_is_refused(tmp_path: Path) -> None:
    """A network that does not keep its scores in `tail` cannot be compiled, since they would be quantised with it."""
    with pytest.raises(ValueError, match="tail"):
        export_graph(WithoutTail(), CANVAS, REGIONS, tmp_path / "graph.onnx")


def test_wrong_number_of_regions_is_refused(tmp_path: Path) -> None:
    """A network that scores other regions than the station has is refused at export."""
    with pytest.raises(ValueError, match="region_scores"):
        export_graph(TinyEngine(), CANVAS, REGIONS + 1, tmp_path / "graph.onnx")


@pytest.mark.parametrize("shape", [(1, *PARTS.shape[1:]), (4, 8, 8, 3)])
def test_wrong_parity_images_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """One part has no rank, and parts of another size are not this station's."""
    with pytest.raises(ValueError, match="parity_images"):
        compile_engine(
            TinyEngine(),
            canvas=CANVAS,
            regions=REGIONS,
            out=tmp_path,
            engine=EngineSettings(),
            calibration_images=PARTS,
            parity_images=np.zeros(shape, np.uint8),
            verdicts=own_quantile(0.1),
        )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny engine's graph.onnx."""
    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    export_graph(TinyEngine(), CANVAS, REGIONS, path)
    return path


def test_graph_indexes_by_gather(graph: Path) -> None:
    """Indexing along one axis is one Gather, and the narrow deconvolution a shuffled convolution."""
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    assert "Gather" in kinds
    assert "GatherND" not in kinds
    assert kinds.count("ConvTranspose") == 1
    assert kinds.count("DepthToSpace") == 1


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_tail_is_computed_in_f32(graph: Path, tmp_path: Path, precision: Precision) -> None:
    """Neither bf16 nor int8 reaches the operations of the tail, while convolutions use it."""
    model = tmp_path / "engine.xml"
    build_model(graph, Variant(precision, precision), PARTS, model)
    ov = import_openvino()
    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16 arithmetic")
    hint = "bf16" if precision == "bf16" else "f32"
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    nodes = [
        (str(info["layerType"].astype(str)), node.get_friendly_name(), str(info["runtimePrecision"].astype(str)))
        for node in compiled.get_runtime_model().get_ordered_ops()
        for info in [node.get_rt_info()]
    ]
    tail = {found for kind, name, found in nodes if name.startswith("tail/") and kind != "Const"}
    convolutions = {found for kind, _, found in nodes if kind == "Convolution"}
    assert tail <= {"f32", "i32"}
    assert "f32" in tail
    assert convolutions <= ({"bf16"} if precision == "bf16" else {"u8", "i8"})


def test_int8_is_reproducible(graph: Path, tmp_path: Path) -> None:
    """The same graph and parts give the same quantised weights, bit for bit."""
    hashes = set()
    for name in ("one", "two"):
        build_model(graph, Variant("int8", "int8"), PARTS, tmp_path / f"{name}.xml")
        hashes.add(hashlib.sha256((tmp_path / f"{name}.bin").read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("bias", [True, False])
def test_shuffled_convolution_is_the_deconvolution(bias: bool) -> None:
    """The rewrite gives the deconvolution's own numbers, borders included."""
    torch.manual_seed(1)
    layer = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1, bias=bias)
    features = torch.randn(2, 5, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(ShuffledConvolution(layer)(features), layer(features), rtol=1e-5, atol=1e-5)


def test_rewriting_leaves_the_network_alone() -> None:
    """Only the copy is rewritten, and only where a deconvolution is narrow."""
    module = TinyEngine()
    rewritten = faster_equivalent(module)
    assert not any(isinstance(layer, ShuffledConvolution) for layer in module.modules())
    assert sum(isinstance(layer, ShuffledConvolution) for layer in rewritten.modules()) == 1
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in rewritten.modules()) == 1


def test_judging_accepts_rounding() -> None:
    """Scores that keep their order and their verdicts keep parity."""
    reference = scores([1.0, 2.0, 3.0, 4.0])
    candidate = judge(Variant("bf16", "bf16"), scores([1.01, 2.02, 2.99, 4.01]), reference, own_quantile(0.3), 1.0)
    assert candidate.faults == ()
    assert candidate.rank_correlation == 1.0
    assert candidate.max_abs_error == pytest.approx(0.02)


def test_judging_sees_swapped_ranks_and_verdicts() -> None:
    """Two parts that change places break the rank correlation, and the verdicts when the limit lies between them."""
    reference = scores([1.0, 2.0, 3.0, 4.0])
    candidate = judge(Variant("int8", "int8"), scores([1.0, 2.0, 4.0, 3.0]), reference, own_quantile(0.3), 1.0)
    assert candidate.verdict_changes == 2
    assert len(candidate.faults) == 2


def test_judging_refuses_what_is_not_a_number() -> None:
    """An engine that once says NaN never keeps parity, and the table stays finite."""
    candidate = judge(
        Variant("bf16", "bf16"), scores([1.0, float("nan"), 3.0]), scores([1.0, 2.0, 3.0]), own_quantile(0.3), 1.0
    )
    assert candidate.faults
    assert all(np.isfinite(getattr(candidate, field.name)) for field in dataclasses.fields(candidate)[2:6])


def test_constant_scores_have_no_ranks() -> None:
    """An engine that says the same of every part does not keep parity with one that does not."""
    flat, varied = scores([1.0, 1.0, 1.0]), scores([1.0, 2.0, 3.0])
    assert judge(Variant("int8", "int8"), flat, varied, own_quantile(0.3), 1.0).rank_correlation == 0.0
    assert judge(Variant("int8", "int8"), flat, flat, own_quantile(0.3), 1.0).rank_correlation == 1.0


def test_relative_error_is_not_decided_by_a_score_near_zero() -> None:
    """A score near zero is compared with the median score, not with itself."""
    assert relative_errors(scores([1e-9, 1.0, 1.0]), scores([0.0, 1.0, 1.0])) == pytest.approx([1e-9, 0, 0])
    assert relative_errors(scores([1.0, 1.0, 2.2]), scores([1.0, 1.0, 2.0])) == pytest.approx([0, 0, 0.1])


def row(precision: Precision, median_ms: float, faults: tuple[str, ...] = ()) -> Candidate:
    """A candidate of that speed."""
    return Candidate(precision, precision, median_ms, 1.0, 0.0, 0.0, 0, faults)


def test_fastest_needs_parity_and_a_clear_lead() -> None:
    """A faster engine without parity is passed over, and f32 stays unless another leads by more than five per cent."""
    assert fastest([row("f32", 3.0), row("bf16", 2.0), row("int8", 1.0, ("broken",))]).precision == "bf16"
    assert fastest([row("f32", 3.0), row("bf16", 2.9)]).precision == "f32"
    assert fastest([row("f32", 3.0), row("bf16", 2.5), row("int8", 2.4)]).precision == "int8"


def test_table_marks_the_engine_in_the_bundle() -> None:
    """One row is marked as kept, and each says why."""
    table = [row("f32", 3.0), row("int8", 1.0, ("broken",))]
    rows = parity_rows(table, table[0])
    assert [entry.kept for entry in rows] == [True, False]
    assert [entry.why for entry in rows] == ["the reference", "broken"]
