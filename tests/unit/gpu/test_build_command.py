"""`inspectd build` on a fake machine: builder and runtime are made up; cache, parity and messages are real."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zmq
from bundle_making import CANVAS, REGIONS, MeanRuntime, make_bundle

from engines.artifact import activate
from engines.compilation.gpu import bundles
from engines.compilation.gpu.build import BuiltPlan
from engines.compilation.gpu.graphs import TypedGraph
from engines.errors import EngineUnavailable
from engines.gpu import Gpu, TensorRt
from engines.plans import Plan
from inspectd.__main__ import main
from inspectd.commands import build

STATION = """\
station: line1
camera: {{kind: folder, path: footage}}
locate: {{mode: "off"}}
canvas: {{height_px: 64, width_px: 96}}
regions:
  - {{name: left, top_px: 8, left_px: 8, height_px: 48, width_px: 40, patches: [[2, 2]]}}
  - {{name: right, top_px: 8, left_px: 48, height_px: 48, width_px: 40, patches: [[2, 2]]}}
bundles: {folder}/bundles
outputs: {{results: "ipc://{folder}/results", queries: "ipc://{folder}/queries"}}
engine: {{plans: {folder}/plans}}
"""


class FakeMachine:
    """A fake GPU with a fake TensorRT: a plan's bytes name its precision, and `off` is how wrong its scores are."""

    def __init__(self) -> None:
        self.gpu = Gpu("NVIDIA L4", 89)
        self.tensorrt = TensorRt(ModuleType("tensorrt"), "tensorrt", "11.4.0.106")
        self.off: dict[str, float] = {}
        self.built: list[str] = []
        self.timings: list[bytes] = []
        self.runtimes: list[MeanRuntime] = []

    def typed(self, graph: Path, precision: str, good_parts: np.ndarray, *, batch: int) -> TypedGraph:
        """In place of typing."""
        assert graph.name == "graph.onnx"
        return TypedGraph(f"{precision} x{batch}".encode() if batch > 1 else precision.encode(), None)

    def build(self, module: ModuleType, model: bytes, *, timing: bytes, progress: object) -> BuiltPlan:
        """In place of the builder."""
        self.built.append(model.decode())
        self.timings.append(timing)
        return BuiltPlan(model, {}, b"measured")

    def run(self, plan: Plan) -> MeanRuntime:
        """In place of the TensorRT runtime."""
        runtime = MeanRuntime(REGIONS, CANVAS)
        runtime.bias = self.off.get(plan.serialised.decode(), 0.0)
        self.runtimes.append(runtime)
        return runtime


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """The fake machine, where the command looks for the real one."""
    fake = FakeMachine()
    monkeypatch.setattr(build, "find_gpu", lambda: fake.gpu)
    monkeypatch.setattr(build, "import_tensorrt", lambda: fake.tensorrt)
    monkeypatch.setattr(build, "run_plan", fake.run)
    monkeypatch.setattr(bundles, "typed_graph", fake.typed)
    monkeypatch.setattr(bundles, "build_plan", fake.build)
    return fake


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings of a station with an active bundle that MeanRuntime reproduces."""
    monkeypatch.setattr("inspectd.loading.check_settings", lambda *settings, **more: None)
    bundle = make_bundle(tmp_path / "bundles")
    activate(tmp_path / "bundles", "line1", bundle.hash)
    path = tmp_path / "line1.yaml"
    path.write_text(STATION.format(folder=tmp_path))
    return str(path)


def test_builds_once(machine: FakeMachine, station: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is built, checked, kept and named; a second call finds it; --again builds anew, with the timings."""
    assert main(["build", "--station", station]) == 0
    assert "built f16 for NVIDIA L4 (SM 89), tensorrt 11.4.0.106" in capsys.readouterr().out
    assert main(["build", "--station", station]) == 0
    assert "there already" in capsys.readouterr().out
    assert main(["build", "--station", station, "--again"]) == 0
    assert machine.built == ["f16", "f16"]
    assert machine.timings == [b"", b"measured"]
    assert all(runtime.closed for runtime in machine.runtimes)


def test_builds_for_the_stations_batch(machine: FakeMachine, station: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan of one part is none for a station that takes two at once: it is built, and both are kept."""
    assert main(["build", "--station", station]) == 0
    path = Path(station)
    path.write_text(path.read_text().replace("engine: {", "engine: {batch: 2, "))
    assert main(["build", "--station", station]) == 0
    assert "built f16 of 2 parts for NVIDIA L4 (SM 89)" in capsys.readouterr().out
    assert main(["build", "--station", station]) == 0
    assert "the plan f16 of 2 parts for NVIDIA L4 (SM 89), tensorrt 11.4.0.106 is there" in capsys.readouterr().out
    assert machine.built == ["f16", "f16 x2"]


def test_auto_goes_back_to_f32(machine: FakeMachine, station: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where f16 does not reproduce the golden images, auto says so and builds f32; by name, f16 is an error."""
    machine.off["f16"] = 0.5
    assert main(["build", "--station", station]) == 0
    told = capsys.readouterr()
    assert "f16 is discarded: golden image" in told.err
    assert "built f32" in told.out
    assert main(["build", "--station", station, "--precision", "f16"]) == 9
    assert capsys.readouterr().err.count("\n") == 1


def test_a_plan_without_parity_is_never_kept(machine: FakeMachine, station: str, tmp_path: Path) -> None:
    """No precision reproduces the golden images: exit code 9, engines closed, nothing in the cache but timings."""
    machine.off = {"f16": 0.5, "f32": 0.5}
    assert main(["build", "--station", station]) == 9
    assert [path.suffix for path in (tmp_path / "plans").iterdir()] == [".cache"]
    assert all(runtime.closed for runtime in machine.runtimes)


def test_a_damaged_plan_is_built_again(machine: FakeMachine, station: str, tmp_path: Path) -> None:
    """What was changed on disk is no plan."""
    assert main(["build", "--station", station]) == 0
    next((tmp_path / "plans").glob("*/plan.engine")).write_bytes(b"changed")
    assert main(["build", "--station", station]) == 0
    assert machine.built == ["f16", "f16"]


def test_a_running_daemon_is_left_alone(
    machine: FakeMachine, station: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While somebody answers at the station's endpoint, nothing is built, unless it is asked for."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    try:
        socket.bind(f"ipc://{tmp_path}/queries")
        assert main(["build", "--station", station]) == 18
        told = capsys.readouterr().err
        assert "--while-running" in told
        assert told.count("\n") == 1
        assert machine.built == []
        assert main(["build", "--station", station, "--while-running"]) == 0
    finally:
        socket.close(linger=0)
        context.term()
    assert machine.built == ["f16"]


def test_no_gpu_is_one_line(
    machine: FakeMachine, station: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is said before anything else is done: exit code 9."""

    def nothing() -> Gpu:
        raise EngineUnavailable("the NVIDIA driver finds no GPU: see nvidia-smi")

    monkeypatch.setattr(build, "find_gpu", nothing)
    assert main(["build", "--station", station]) == 9
    assert capsys.readouterr().err == "inspectd: the NVIDIA driver finds no GPU: see nvidia-smi\n"
