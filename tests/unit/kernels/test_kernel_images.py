"""The kernels compiled by nvcc and by NVRTC, neither of which needs a GPU; nothing here runs on one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from kernel_faults import Fault

from engines.errors import EngineUnavailable
from engines.kernels import ABI, image, kernel_images
from engines.kernels.image import ARCHITECTURES, SOURCE, compiled_image, fat_binary_path, precompiled_image

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "build_kernels.py"
ELF_FLAGS = slice(48, 52)
"""Where an ELF of 64 bits has its flags; one of these bytes is the SM version in NVIDIA's."""
UNUSED = Fault("unused variable", "SHARED_FLOATS(highest_of_warp);", "SHARED_FLOATS(highest_of_warp); int unused;")
STATIC_SHARED = Fault(
    "static shared memory",
    "SHARED_FLOATS(highest_of_warp);",
    "__shared__ float highest_of_warp[most_threads / warp_size];",
)
SPILLING = Fault(
    "a table per thread",
    "const Spread all = block_spread(own, shared);",
    "float table[64]; for (int i = 0; i < 64; ++i) table[i] = memory[i * cells]; "
    "own.mean += table[(int)own.count % 64]; const Spread all = block_spread(own, shared);",
)


def build(folder: Path, source: Path = SOURCE) -> subprocess.CompletedProcess[str]:
    """Run tools/build_kernels.py as `make kernels` does, into a folder; skips where there is no nvcc."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "--source", str(source), "--out", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if "nvcc was not found" in done.stderr:
        pytest.skip(done.stderr.strip())
    return done


@pytest.fixture
def nvrtc() -> None:
    """Skips where NVRTC or its bindings are missing."""
    try:
        compiled_image((7, 5))
    except EngineUnavailable as error:
        if "NVRTC is missing" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.gpu_path
def test_nvcc_compiles_for_each_architecture_within_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors; registers bounded, nothing spilled; what comes out is what the package would take."""
    older = tmp_path / f"{SOURCE.stem}-0123456789abcdef.fatbin"
    older.touch()
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    for architecture in ARCHITECTURES:
        for kernel in ABI:
            assert f"{kernel.name} sm_{architecture}: " in done.stdout
    assert not older.exists()
    monkeypatch.setattr(image, "fat_binary_path", lambda: tmp_path / fat_binary_path().name)
    shipped = precompiled_image()
    assert shipped is not None
    assert next(kernel_images((8, 6))) == shipped


@pytest.mark.gpu_path
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (UNUSED, "never referenced"),
        (STATIC_SHARED, "over the limits"),
        (SPILLING, "Local memory used"),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_nvcc_refuses_warnings_and_what_exceeds_the_limits(tmp_path: Path, fault: Fault, reason: str) -> None:
    """An unused variable, static shared memory, a table in local memory: no fat binary is left behind."""
    done = build(tmp_path, fault.plant(tmp_path))
    assert done.returncode == 1
    assert reason in done.stderr
    assert not list(tmp_path.glob("*.fatbin"))


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_the_same_text_for_each_architecture(architecture: int) -> None:
    """An ELF for exactly this architecture, with both kernels under the names that the launches carry."""
    compiled = compiled_image(divmod(architecture, 10))
    assert compiled.code[:4] == b"\x7fELF"
    assert architecture in compiled.code[ELF_FLAGS]
    for kernel in ABI:
        assert f".text.{kernel.name}\0".encode() in compiled.code
    assert "NVRTC" in compiled.origin


@pytest.mark.usefixtures("nvrtc")
def test_what_nvrtc_cannot_compile_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's reason is in it."""
    broken = Fault("unknown name", "float distance;", "float distance = unheard_of;").plant(tmp_path)
    monkeypatch.setattr(image, "SOURCE", broken)
    with pytest.raises(EngineUnavailable, match="unheard_of") as refused:
        compiled_image((8, 6))
    assert "\n" not in str(refused.value)


def test_without_a_fat_binary_and_without_nvrtc_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the packages and `make kernels`."""
    monkeypatch.setattr(image, "precompiled_image", lambda: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'inspectd\[gpu\]', or run `make kernels`"):
        next(kernel_images((8, 6)))


def test_a_gpu_older_than_the_kernels_is_refused() -> None:
    """Compute capability 7.0 gets one line with what to do."""
    with pytest.raises(EngineUnavailable, match=r"7\.0, the kernels need 7\.5"):
        next(kernel_images((7, 0)))


def test_a_changed_source_never_takes_an_older_fat_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fat binary is named by the hash of the source that it was built from."""
    source = tmp_path / SOURCE.name
    source.write_bytes(SOURCE.read_bytes())
    monkeypatch.setattr(image, "SOURCE", source)
    fat_binary_path().write_bytes(b"code")
    shipped = precompiled_image()
    assert shipped is not None
    assert shipped.code == b"code"
    source.write_bytes(SOURCE.read_bytes() + b"\n")
    assert precompiled_image() is None


def test_the_wheel_takes_the_fat_binary_along() -> None:
    """Where `make kernels` puts it is where the wheel looks for what git ignores; the kernels' text goes with it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    place = fat_binary_path().relative_to(ROOT)
    assert any(place.match(pattern) for pattern in wheel["artifacts"])
    assert place.parts[0] in wheel["packages"]
    assert SOURCE.parent == fat_binary_path().parent


def test_importing_the_kernels_probes_nothing() -> None:
    """The package needs neither CUDA's bindings nor torch until machine code is asked for."""
    code = "import sys, engines.kernels; print(*{'cuda', 'torch', 'pycuda'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split() == []


def test_the_abi_is_the_one_in_the_text() -> None:
    """Names and order of the kernels' parameters are those that the launches state."""
    text = SOURCE.read_text(encoding="utf-8")
    for kernel in ABI:
        parameters = re.search(rf"\b{kernel.name}\(([^)]*)\)", text)
        assert parameters is not None
        names = tuple(re.findall(r"(\w+)(?:,|$)", parameters[1]))
        assert names == kernel.arguments
