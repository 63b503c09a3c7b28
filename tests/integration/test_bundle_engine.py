from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.threshold import choose_thresholds
from engines.artifact import (
    Bundle,
    BundleWriter,
    EngineInfo,
    GoldenImage,
    ManifestContent,
    SettingsSnapshot,
    Statistic,
    TeacherInfo,
    fingerprint,
)
from engines.compilation.parity import own_quantile
from engines.compile import compile_engine
from engines.errors import EngineFault, EngineUnavailable
from engines.golden import write_golden
from engines.networks.dtkd import DtkdNetwork
from engines.networks.fused import FusedEngine, save_fused
from engines.runtimes import infer, load_runtime
from engines.runtimes.torch import TorchRuntime, TorchSlot
from engines.scoring import ScoringConstants
from engines.settings import CanvasSettings, EngineSettings, ModelSettings, RegionSettings
from engines.teachers import load_teacher

CANVAS = CanvasSettings(height_px=64, width_px=96)
REGIONS = (
    RegionSettings(name="left", top_px=8, left_px=8, height_px=48, width_px=40, patches=((2, 2),)),
    RegionSettings(name="right", top_px=8, left_px=48, height_px=48, width_px=40, patches=((2, 2),)),
)
MODEL = ModelSettings(score="paper")
PARTS = (
    np.random.default_rng(0)
    .integers(0, 256, (6, CANVAS.height_px // 8, CANVAS.width_px // 8, 3), dtype=np.uint8)
    .repeat(8, axis=1)
    .repeat(8, axis=2)
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with an untrained dtkd network on the Lite teachers, compiled in f32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DtkdNetwork(MODEL, [load_teacher(name, 3) for name in MODEL.teachers])
    fused = FusedEngine(network, MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 0.5)))
    with BundleWriter(tmp_path_factory.mktemp("bundles"), "line1") as writer:
        save_fused(fused, writer.folder / "network.safetensors")
        write_golden(writer.folder / "golden" / "0.png", PARTS[0])
        compiled = compile_engine(
            fused,
            canvas=CANVAS,
            regions=len(REGIONS),
            out=writer.folder,
            engine=EngineSettings(precision="f32"),
            calibration_images=PARTS,
            parity_images=PARTS,
            verdicts=own_quantile(0.2),
        )
        files = {role: path.name for role, path in compiled.files.items()} | {"network": "network.safetensors"}
        return writer.write(
            _content(EngineInfo(runtime="openvino", precision="f32", files=files, parity=compiled.parity))
        )


def _content(engine: EngineInfo) -> ManifestContent:
    part = np.random.default_rng(0).normal(1.0, 0.1, 60)
    return ManifestContent(
        station="line1",
        product_version="0.1.0",
        packages={},
        settings=SettingsSnapshot(canvas=CANVAS, regions=REGIONS, model=MODEL, locate={}, engine=EngineSettings()),
        seeds={"calibration": 0},
        preset="quick",
        data=fingerprint(["ab" * 32]),
        teachers=(TeacherInfo(name="efficientnet_lite0", sha256="0" * 64, licence="Apache-2.0"),),
        lambdas=(),
        thresholds=choose_thresholds(
            part, np.stack([part, part], axis=1), ["left", "right"], asked_rate=0.05, confidence=0.95
        ),
        engine=engine,
        golden=(GoldenImage(file="golden/0.png", part_score=1.0, region_scores=(1.0, 1.0), tolerance=0.01),),
        reference={"part_score": Statistic.of(part)},
    )


def test_both_runtimes_give_the_same_answer(bundle: Bundle) -> None:
    """OpenVINO and torch, loaded from one bundle, agree on scores, map and reconstruction of every part."""
    compiled = load_runtime(bundle, EngineSettings())
    reference = load_runtime(bundle, EngineSettings(runtime="torch"))
    assert (compiled.info.runtime, reference.info.runtime) == ("openvino", "torch")
    for part in PARTS:
        ours, theirs = infer(compiled, part), infer(reference, part)
        assert ours.part_score == pytest.approx(theirs.part_score, rel=1e-3)
        np.testing.assert_allclose(ours.region_scores, theirs.region_scores, rtol=1e-3)
        np.testing.assert_allclose(
            ours.anomaly_map, theirs.anomaly_map, rtol=1e-3, atol=1e-3 * theirs.anomaly_map.max()
        )
        assert ours.reconstruction is not None
        assert theirs.reconstruction is not None
        np.testing.assert_allclose(ours.reconstruction, theirs.reconstruction, atol=1e-4)
    compiled.close()
    reference.close()


def test_torch_slot_keeps_its_protocol(bundle: Bundle) -> None:
    """A torch slot does not wait before a start, gives up in time, refuses a start meanwhile, and recovers."""
    runtime = TorchRuntime(bundle.path("network.safetensors"), threads=1)
    slot = runtime.slots[0]
    with pytest.raises(EngineFault, match="not started"):
        slot.wait(1.0)
    expected = infer(runtime, PARTS[0]).part_score
    np.copyto(slot.input, PARTS[1])
    slot.start()
    with pytest.raises(EngineFault, match="did not end"):
        slot.wait(0.0)
    with pytest.raises(EngineFault, match="still runs"):
        slot.start()
    assert infer_when_free(slot, PARTS[0]) == expected
    runtime.close()
    with pytest.raises(EngineFault, match="could not be started"):
        slot.start()


def infer_when_free(slot: TorchSlot, part: NDArray[np.uint8]) -> float:
    """The part's score, as soon as the slot takes parts again (within 30 s)."""
    give_up = time.monotonic() + 30.0
    while True:
        np.copyto(slot.input, part)
        try:
            slot.start()
            return slot.wait(30.0).part_score
        except EngineFault:
            if time.monotonic() > give_up:
                raise


def test_other_precision_than_the_bundle_is_refused(bundle: Bundle) -> None:
    """Thresholds were chosen on one precision's scores: a station that asks for another one must calibrate again."""
    with pytest.raises(EngineUnavailable, match="f32, the station asks for int8: calibrate again"):
        load_runtime(bundle, EngineSettings(precision="int8"))
    with pytest.raises(EngineUnavailable, match="f32, the station asks for bf16"):
        load_runtime(bundle, EngineSettings(runtime="torch", precision="bf16"))


def test_torch_runtime_without_torch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon without torch says what to install or to set."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineUnavailable, match=r"inspectd\[calibrate\].*openvino"):
        load_runtime(bundle, EngineSettings(runtime="torch"))


def test_openvino_runtime_needs_no_torch(bundle: Bundle) -> None:
    """Loading a bundle's engine and inspecting a part imports neither torch nor the networks."""
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from engines.artifact import open_bundle\n"
        "from engines.runtimes import infer, load_runtime\n"
        "from engines.settings import EngineSettings\n"
        f"runtime = load_runtime(open_bundle(Path({str(bundle.folder)!r})), EngineSettings())\n"
        "infer(runtime, np.zeros_like(runtime.slots[0].input))\n"
        "print([name for name in ('torch', 'onnx', 'nncf', 'engines.networks') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
