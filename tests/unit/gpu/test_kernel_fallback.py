"""Which machine code of the kernels runs where the FAKE CUDA driver refuses the precompiled one, and what is said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu_assertions import assert_answers, assert_nothing_left
from tiny_plan import expected, part_images, tiny_plan

from engines.errors import EngineUnavailable
from engines.kernels import KernelImage, image
from engines.kernels.image import Capability
from engines.runtimes import Chosen, infer, load_chosen
from engines.runtimes.choice import Choice
from engines.runtimes.tensorrt import TensorRtRuntime
from engines.settings import EngineSettings

SHIPPED = b"machine code of another driver"
NO_CODE = "no kernel image is available for execution on the device"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fat binary that lies where the package's own would."""
    path = tmp_path / "patch_gmsd-0123456789abcdef.fatbin"
    path.write_bytes(SHIPPED)
    monkeypatch.setattr(image, "fat_binary_path", lambda: path)
    return path.name


@pytest.fixture
def compiled(kernels: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Capability]:
    """NVRTC's place is taken by the host's build; for which GPUs it was asked."""
    asked: list[Capability] = []

    def compile_now(capability: Capability) -> KernelImage:
        asked.append(capability)
        return KernelImage(kernels, "patch_gmsd.cu by NVRTC 13.0")

    monkeypatch.setattr(image, "compiled_image", compile_now)
    return asked


@pytest.mark.parametrize("loads_lazily", [False, True])
def test_what_the_driver_refuses_is_compiled(
    fake: SimpleNamespace, shipped: str, compiled: list[Capability], loads_lazily: bool
) -> None:
    """Refused when it is loaded, or only when a kernel is asked for: NVRTC's is taken, and the line says why."""
    fake.cuda.refused, fake.cuda.loads_lazily = {SHIPPED}, loads_lazily
    runtime = TensorRtRuntime(tiny_plan(), fake.packages)
    part = part_images(1)[0]
    assert_answers(infer(runtime, part), expected(part))
    call = "cuModuleGetFunction" if loads_lazily else "cuModuleLoadDataEx"
    refusal = f"the driver refuses {shipped} ({call} failed: {NO_CODE})"
    assert runtime.info.note == f"kernels patch_gmsd.cu by NVRTC 13.0, because {refusal}"
    assert compiled == [(8, 6)]
    runtime.close()
    assert_nothing_left(fake)


def test_what_was_shipped_is_taken_first(
    fake: SimpleNamespace, kernels: bytes, shipped: str, compiled: list[Capability]
) -> None:
    """Where the driver takes the precompiled kernels, nothing is compiled."""
    image.fat_binary_path().write_bytes(kernels)
    runtime = TensorRtRuntime(tiny_plan(), fake.packages)
    assert runtime.info.note == f"kernels {shipped}"
    assert compiled == []
    runtime.close()


def test_neither_is_one_line(fake: SimpleNamespace, shipped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, and no NVRTC: one line with both reasons and what to do; nothing is left on the device."""
    fake.cuda.refused = {SHIPPED}
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineUnavailable) as refused:
        TensorRtRuntime(tiny_plan(), fake.packages)
    said = str(refused.value)
    assert said.startswith(f"the driver refuses {shipped} (cuModuleLoadDataEx failed: {NO_CODE}); NVRTC is missing")
    assert "pip install 'inspectd[gpu]'" in said
    assert "\n" not in said
    assert_nothing_left(fake)


def test_both_refused_is_one_line(
    fake: SimpleNamespace, kernels: bytes, shipped: str, compiled: list[Capability]
) -> None:
    """A driver that takes neither is too old: the line says so of both."""
    fake.cuda.refused = {SHIPPED, kernels}
    with pytest.raises(EngineUnavailable, match=r"NVRTC 13\.0 .*update the NVIDIA driver") as refused:
        TensorRtRuntime(tiny_plan(), fake.packages)
    assert str(refused.value).count("the driver refuses") == 2
    assert "\n" not in str(refused.value)
    assert_nothing_left(fake)


def test_the_engines_line_says_which(fake: SimpleNamespace, kernels: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon logs as the reason for its engine ends with where the kernels come from."""
    plan = tiny_plan()
    choice = Choice("tensorrt", "engine.runtime auto: plan f32", plan)
    origin = [KernelImage(kernels, "patch_gmsd-0.fatbin")]
    monkeypatch.setattr("engines.runtimes.choice.choose_runtime", lambda bundle, engine: choice)
    monkeypatch.setattr(
        "engines.runtimes.run_plan",
        lambda plan, wait_ms: TensorRtRuntime(plan, fake.packages, images=lambda capability: iter(origin)),
    )
    chosen: Chosen = load_chosen(None, EngineSettings())  # type: ignore[arg-type]
    assert chosen.why == "engine.runtime auto: plan f32; kernels patch_gmsd-0.fatbin"
    chosen.runtime.close()
