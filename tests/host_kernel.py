"""The CUDA kernels' text run on the CPU, through engines/kernels/host_shim.h. No GPU, no driver. Not a test."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.kernels import KernelImage, Launch, PatchGmsdPlan
from engines.kernels.image import SOURCE, Capability

ORDERS = ("forward", "reverse", "shuffled")
Order = Literal["forward", "reverse", "shuffled"]
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")
Floats = NDArray[np.float32]


def compiler() -> str:
    """The C++ compiler; skips the test where there is none."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is not installed: the kernels cannot be run on the CPU")
    return found


def compile_for_host(sources: Sequence[Path], target: Path, *flags: str, text: Path = SOURCE) -> Path:
    """Compile sources that include the kernels' `text`; the compiler's words are the failure's."""
    kernels = [f"-I{SOURCE.parent}", f'-DKERNEL_TEXT="{text}"']
    command = [compiler(), *FLAGS, *flags, *kernels, *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def host_library(folder: Path, text: Path = SOURCE) -> Path:
    """The kernels as a shared library in `folder`."""
    return compile_for_host(
        [SOURCE.with_name("host_kernels.cpp")], folder / f"{text.stem}.so", "-O2", "-shared", "-fPIC", text=text
    )


def host_images(library: bytes) -> Callable[[Capability], Iterator[KernelImage]]:
    """The path of a host library, where a runtime asks for the kernels' machine code."""
    return lambda capability: iter([KernelImage(library, "the host's build")])


def host_buffers(
    plan: PatchGmsdPlan, part: NDArray[np.uint8], reconstruction: Floats, feature_scores: Floats
) -> dict[str, NDArray[np.generic]]:
    """What the kernels' arguments point to, by name; what they write is poisoned first."""
    nothing = np.float32("nan")
    return {
        "part": np.ascontiguousarray(part),
        "reconstruction": np.ascontiguousarray(reconstruction, dtype=np.float32),
        "feature_scores": np.ascontiguousarray(feature_scores, dtype=np.float32),
        "tables": plan.tables,
        "constants": plan.constants,
        "workspace": np.full(plan.workspace_bytes // 4, nothing),
        "distances": np.full(plan.distances_bytes // 4, nothing),
        "scores": np.full((plan.most_parts, 1 + len(plan.regions)), nothing),
    }


class HostKernels:
    """The kernels of one library; a launch returns when it has run."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.host_error.restype = ctypes.c_char_p

    def launch(self, launch: Launch, addresses: Sequence[int], order: Order = "forward", seed: int = 0) -> None:
        """Run one launch with pointers to host memory as arguments. Raises RuntimeError with the shim's reason."""
        pointers = [ctypes.c_void_p(address) for address in addresses]
        arguments = (ctypes.c_void_p * len(pointers))(*[ctypes.addressof(pointer) for pointer in pointers])
        status = self._library.host_launch(
            launch.kernel.name.encode(),
            (ctypes.c_uint * 3)(*launch.grid),
            (ctypes.c_uint * 3)(*launch.block),
            ctypes.c_size_t(launch.shared_bytes),
            arguments,
            ctypes.c_uint(len(pointers)),
            ctypes.c_int(ORDERS.index(order)),
            ctypes.c_uint(seed),
        )
        if status:
            raise RuntimeError(self._library.host_error().decode())

    def run(
        self,
        launches: Sequence[Launch],
        buffers: Mapping[str, NDArray[np.generic]],
        order: Order = "forward",
        seed: int = 0,
    ) -> Floats:
        """Run launches one after the other over named buffers; the scores (N, 1 + R)."""
        for launch in launches:
            self.launch(launch, [buffers[name].ctypes.data for name in launch.kernel.arguments], order, seed)
        return buffers["scores"].copy()  # type: ignore[return-value]
