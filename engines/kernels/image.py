"""The kernels' machine code for a GPU: precompiled by `make kernels` where it was shipped, else compiled here by NVRTC.

Blocks for under a second; called once, before the first part. Imports nothing of CUDA until NVRTC is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from engines.errors import EngineUnavailable, one_line

SOURCE: Final = Path(__file__).with_name("patch_gmsd.cu")
ARCHITECTURES: Final = (75, 80, 86, 87, 89, 90, 100, 110, 120)
"""SM versions with machine code in the fat binary; others get it from the PTX of the first, by the driver."""
Capability = tuple[int, int]
"""A GPU's compute capability, for example (8, 9)."""


@dataclass(frozen=True, slots=True)
class KernelImage:
    """What `cuModuleLoadData` takes, and where it comes from, for logs."""

    code: bytes
    origin: str


def kernel_images(capability: Capability) -> Iterator[KernelImage]:
    """The kernels for a GPU of this compute capability, in the order to try them: precompiled, then compiled here.

    The second is compiled when it is asked for: a driver too old for the first may take it. Raises EngineUnavailable
    where it cannot be compiled, or the GPU is older than the kernels support.
    """
    oldest = ARCHITECTURES[0]
    if 10 * capability[0] + capability[1] < oldest:
        raise EngineUnavailable(
            f"this GPU has compute capability {capability[0]}.{capability[1]}, the kernels need "
            f"{oldest // 10}.{oldest % 10} or newer; set engine.runtime: openvino"
        )
    shipped = precompiled_image()
    if shipped is not None:
        yield shipped
    yield compiled_image(capability)


def precompiled_image() -> KernelImage | None:
    """The fat binary that was built from this very source, or None where it was not shipped."""
    path = fat_binary_path()
    return KernelImage(path.read_bytes(), path.name) if path.is_file() else None


def fat_binary_path() -> Path:
    """Where the fat binary of this source lies: named by its hash, so that an older one is never taken for it."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    return SOURCE.with_name(f"{SOURCE.stem}-{digest[:16]}.fatbin")


def compiled_image(capability: Capability) -> KernelImage:
    """Compile the kernels with NVRTC. Needs no GPU. Raises EngineUnavailable, with NVRTC's reason in one line."""
    nvrtc = _nvrtc()
    major, minor = _call(nvrtc, "nvrtcVersion")
    program = _call(nvrtc, "nvrtcCreateProgram", SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], [])
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * _call(nvrtc, "nvrtcGetProgramLogSize", program)
        _call(nvrtc, "nvrtcGetProgramLog", program, log)
        reason = one_line(log.decode(errors="replace").strip("\0 ")) or status.name
        raise EngineUnavailable(f"NVRTC {major}.{minor} cannot compile {SOURCE.name}: {reason}")
    code = b" " * _call(nvrtc, "nvrtcGetCUBINSize", program)
    _call(nvrtc, "nvrtcGetCUBIN", program, code)
    _call(nvrtc, "nvrtcDestroyProgram", program)
    return KernelImage(code, f"{SOURCE.name} by NVRTC {major}.{minor}")


def _nvrtc() -> ModuleType:
    """The bindings, with their library loaded."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise EngineUnavailable(
            f"NVRTC is missing to compile the CUDA kernels here ({one_line(str(error))}): pip install 'inspectd[gpu]', "
            "or run `make kernels` and install again"
        ) from error
    bindings: ModuleType = nvrtc
    return bindings


def _call(nvrtc: ModuleType, name: str, *arguments: Any) -> Any:
    """One call of NVRTC: what it returns beside its status, which must be success."""
    status, *returned = getattr(nvrtc, name)(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise EngineUnavailable(f"{name} failed: {status.name}")
    return returned[0] if len(returned) == 1 else tuple(returned)
