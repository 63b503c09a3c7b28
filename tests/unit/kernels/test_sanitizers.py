"""The kernels under ThreadSanitizer and AddressSanitizer, one thread of the system per CUDA thread, on the CPU.

Two checks of what a GPU would not report: a missing barrier is a data race, an index off by one a bad access.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host_kernel import compile_for_host, compiler
from kernel_cases import TOLERANCE, KernelCase, kernel_case
from kernel_faults import OUT_OF_BOUNDS, REMOVED_BARRIERS, Fault

from engines.kernels import Launch
from engines.kernels.image import SOURCE
from engines.settings import CanvasSettings, RegionSettings

DRIVER = Path(__file__).with_name("run_launches.cpp")
THREADS = 64
"""Per block: two warps, each a thread of the system."""
SANITIZERS = {"thread": ["-fsanitize=thread"], "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}
PLANTED = {
    "thread": "int x; int main() { std::thread a([] { x = 1; }), b([] { x = 2; }); a.join(); b.join(); }",
    "address": "int main(int count, char **) { std::vector<int> v(1); return v.data()[count]; }",
}
"""A program with a fault that the sanitizer must find before it is trusted."""
TIMEOUT_S = 60.0


def small_case() -> KernelCase:
    """Two regions, one of which ends in the canvas' last row and column, cut at two scales."""
    places = {"start": (0, 0), "end": (18, 16)}
    regions = [
        RegionSettings(name=name, top_px=top, left_px=left, height_px=14, width_px=16, patches=((2, 1), (1, 1)))
        for name, (top, left) in places.items()
    ]
    return kernel_case(CanvasSettings(height_px=32, width_px=32), regions)


@pytest.fixture(scope="module", params=list(SANITIZERS))
def sanitizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each sanitizer that this machine's compiler has and that finds a fault of its own kind here; skips others."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(f"{name}-sanitizer")
    source, program = folder / "planted.cpp", folder / "planted"
    source.write_text(f"#include <thread>\n#include <vector>\n{PLANTED[name]}\n", encoding="utf-8")
    command = [compiler(), *SANITIZERS[name], "-g", "-pthread", str(source), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode:
        pytest.skip(f"the compiler has no {name} sanitizer: {compiled.stderr.splitlines()[-1]}")
    found = subprocess.run([program], capture_output=True, text=True, check=False)
    if report(name) not in found.stderr:
        pytest.skip(f"the {name} sanitizer does not work on this machine: {found.stderr.strip() or 'no report'}")
    return name


def report(sanitizer: str) -> str:
    """What the sanitizer says of a fault."""
    return {"thread": "data race", "address": "AddressSanitizer: heap-buffer-overflow"}[sanitizer]


def run(sanitizer: str, text: Path, case: KernelCase, folder: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Compile the kernels' text with the sanitizer and run the case's launches in a process of their own."""
    program = compile_for_host(
        [DRIVER, SOURCE.with_name("host_kernels.cpp")],
        folder / "launches",
        *("-O1", "-g", "-pthread", "-DHOST_THREADS", *SANITIZERS[sanitizer]),
        text=text,
    )
    lines = []
    for name, array in case.buffers().items():
        (folder / f"{name}.bin").write_bytes(array.tobytes())
        lines.append(f"buffer {name} {array.nbytes} {folder / name}.bin")
    lines += [described(launch) for launch in case.plan().launches(1)]
    (folder / "launches.txt").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [program, folder / "launches.txt", folder / "scores.out"],
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    return done, folder / "scores.out"


def described(launch: Launch) -> str:
    """A launch as the program reads it, its blocks made small."""
    shared_bytes = launch.shared_bytes
    if launch.kernel.name == "patch_gmsd_scores":
        shared_bytes = 4 * THREADS // 32
    launch = dataclasses.replace(launch, block=(THREADS, 1, 1))
    numbers = " ".join(map(str, (*launch.grid, *launch.block, shared_bytes)))
    return f"launch {launch.kernel.name} {numbers} {' '.join(launch.kernel.arguments)}"


def test_the_kernels_are_clean(sanitizer: str, tmp_path: Path) -> None:
    """No race, no access out of bounds, and the scores are those of the reference."""
    case = small_case()
    done, scores = run(sanitizer, SOURCE, case, tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.fromfile(scores, dtype=np.float32).reshape(1, -1), case.expected(), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("sanitizer", "fault"),
    [
        *(pytest.param("thread", fault, id=f"thread-{fault.name}") for fault in REMOVED_BARRIERS),
        *(pytest.param("address", fault, id=f"address-{fault.name}") for fault in OUT_OF_BOUNDS),
    ],
    indirect=["sanitizer"],
)
def test_a_planted_fault_is_caught_by_the_check_meant_for_it(sanitizer: str, fault: Fault, tmp_path: Path) -> None:
    """A removed barrier is a race, an index off by one a bad access, and the report names the kernels' text."""
    done, _ = run(sanitizer, fault.plant(tmp_path), small_case(), tmp_path)
    assert done.returncode != 0
    assert report(sanitizer) in done.stderr
    assert ".cu:" in done.stderr
