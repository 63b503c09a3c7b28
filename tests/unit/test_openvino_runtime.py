from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_engine import CANVAS, REGIONS, TinyEngine, part_images

from engines.compilation.graph import export_graph
from engines.errors import EngineFault, EngineUnavailable
from engines.runtimes import infer
from engines.runtimes.openvino import OpenVinoRuntime, import_openvino, parse_precision


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny engine's graph.onnx, which OpenVINO reads as it is."""
    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    export_graph(TinyEngine(), CANVAS, REGIONS, path)
    return path


@pytest.fixture(scope="module")
def slow_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with much more to compute."""
    path = tmp_path_factory.mktemp("slow") / "graph.onnx"
    export_graph(TinyEngine(blocks=40), CANVAS, REGIONS, path)
    return path


def test_reproduces_the_network(graph: Path) -> None:
    """Every output of the f32 engine is the network's own, within rounding."""
    runtime = OpenVinoRuntime(graph, "f32")
    module = TinyEngine()
    for image in part_images(8):
        outputs = infer(runtime, image)
        with torch.inference_mode():
            score, regions, maps, reconstruction = (value.numpy() for value in module(torch.from_numpy(image[None])))
        assert outputs.reconstruction is not None
        assert outputs.part_score == pytest.approx(float(score[0]), rel=1e-4)
        np.testing.assert_allclose(outputs.region_scores, regions[0], rtol=1e-4)
        np.testing.assert_allclose(outputs.anomaly_map, maps[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(outputs.reconstruction, reconstruction[0], atol=1e-5)


def test_says_what_is_running(graph: Path) -> None:
    """The info names runtime, version, precision and processor."""
    info = OpenVinoRuntime(graph, "f32").info
    assert (info.runtime, info.precision) == ("openvino", "f32")
    assert info.version[:2] == "20"
    assert info.device


def test_buffers_stay_where_they_are(graph: Path) -> None:
    """The engine reads and writes the same arrays for every part: nothing is allocated or copied per part."""
    runtime = OpenVinoRuntime(graph, "f32")
    slot = runtime.slots[0]
    first, second = (infer(runtime, image) for image in part_images(2))
    assert first.anomaly_map is second.anomaly_map
    assert slot.input is runtime.slots[0].input
    assert first.part_score != second.part_score


def test_slots_answer_side_by_side(graph: Path) -> None:
    """Two parts in flight get each their own answer."""
    images = part_images(2)
    single = OpenVinoRuntime(graph, "f32")
    alone = [infer(single, image).part_score for image in images]
    runtime = OpenVinoRuntime(graph, "f32", threads=2, slots=2)
    for slot, image in zip(runtime.slots, images, strict=True):
        np.copyto(slot.input, image)
        slot.start()
    assert [slot.wait(10.0).part_score for slot in runtime.slots] == pytest.approx(alone, rel=1e-5)


def test_same_scores_in_every_process(graph: Path) -> None:
    """The same part gives the same bits again, in this process and in another one."""
    program = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from tiny_engine import part_images
        from engines.runtimes import infer
        from engines.runtimes.openvino import OpenVinoRuntime
        runtime = OpenVinoRuntime(Path({str(graph)!r}), "f32")
        print([infer(runtime, image).part_score.hex() for image in part_images(4)])
        """
    )
    runtime = OpenVinoRuntime(graph, "f32")
    here = [[infer(runtime, image).part_score.hex() for image in part_images(4)] for _ in range(2)]
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert here[0] == here[1]
    assert there.strip() == str(here[0])


def test_wait_before_start(graph: Path) -> None:
    """A slot that was not started has no answer to give, and does not give the last part's."""
    runtime = OpenVinoRuntime(graph, "f32")
    infer(runtime, part_images(1)[0])
    with pytest.raises(EngineFault, match="not started"):
        runtime.slots[0].wait(1.0)


def test_late_inference_is_a_fault_and_the_slot_recovers(slow_graph: Path) -> None:
    """An inference that does not end in time is an EngineFault; soon after, the slot answers the next part."""
    image, other = part_images(2)
    runtime = OpenVinoRuntime(slow_graph, "f32")
    expected = infer(runtime, other).part_score
    slot = runtime.slots[0]
    np.copyto(slot.input, image)
    slot.start()
    with pytest.raises(EngineFault, match="did not end within 1 ms"):
        slot.wait(0.001)
    with pytest.raises(EngineFault, match="not started"):
        slot.wait(0.001)
    give_up = time.monotonic() + 30.0
    while True:
        np.copyto(slot.input, other)
        try:
            slot.start()
            break
        except EngineFault:
            assert time.monotonic() < give_up
    assert slot.wait(30.0).part_score == expected


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "missing"), (b"", "cannot load"), (b"<net></net>", "cannot load")]
)
def test_unreadable_engine(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    """A missing or broken engine file is one line that names it."""
    model = tmp_path / "engine.xml"
    if content is not None:
        model.write_bytes(content)
    with pytest.raises(EngineUnavailable, match=complaint) as caught:
        OpenVinoRuntime(model, "f32")
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_graph_that_is_no_engine(tmp_path: Path) -> None:
    """A network with other inputs and outputs is refused when it is loaded, not when the first part comes."""
    path = tmp_path / "graph.onnx"
    program = torch.onnx.export(nn_identity(), (torch.zeros(1, 3, 8, 8),), dynamo=True, verbose=False)
    assert program is not None
    program.save(path)
    with pytest.raises(EngineUnavailable, match="not an engine"):
        OpenVinoRuntime(path, "f32")


def nn_identity() -> torch.nn.Module:
    """One layer, float in, float out."""
    return torch.nn.Sequential(torch.nn.ReLU()).eval()


def test_without_openvino(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailable, match="pip install openvino"):
        OpenVinoRuntime(graph, "f32")


def test_unknown_precision() -> None:
    """A manifest of a later version with another precision is refused by name."""
    assert parse_precision("bf16") == "bf16"
    with pytest.raises(EngineUnavailable, match="'f8'"):
        parse_precision("f8")


def test_import_tells_nobody(tmp_path: Path) -> None:
    """Importing OpenVINO forks nothing, opens no socket and writes nothing into the home folder."""
    program = textwrap.dedent(
        """
        import sys
        seen = []
        sys.addaudithook(lambda event, args: event.split(".")[0] in ("socket", "subprocess") and seen.append(event)
                         or event in ("os.fork", "os.posix_spawn") and seen.append(event))
        from engines.runtimes.openvino import import_openvino
        openvino = import_openvino()
        openvino.Core()
        assert sys.modules["openvino_telemetry"] is None
        calls = [event for event in seen if event not in ("socket.gethostname",)]
        print(calls)
        """
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_import_is_the_package() -> None:
    """What comes back is OpenVINO itself."""
    assert hasattr(import_openvino(), "Core")
