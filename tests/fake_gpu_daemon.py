#!/usr/bin/env python3
"""tools/faulty_daemon.py over a FAKE CUDA driver and a FAKE TensorRT, which stand where the packages would. Not a test.

All else is real: choosing the runtime, the plan cache, the golden images, the daemon. The kernels run on the CPU.
Arguments: the kernels' host library, the inference at which the fake device is lost (0: never), then faulty_daemon's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import faulty_daemon
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt
from host_kernel import host_images

import engines.runtimes.tensorrt
from inspectd.exits import run_program


def install(kernels: str, lost_at: int) -> None:
    """Put the fakes where `import pycuda.driver`, `tensorrt` and `cuda.bindings.driver` look."""
    cuda = FakeCuda()
    cuda.lost_at = lost_at or None
    sys.modules["pycuda"] = ModuleType("pycuda")
    sys.modules["pycuda.driver"] = cuda.driver
    sys.modules["tensorrt"] = FakeTensorRt(cuda)  # type: ignore[assignment]
    sys.modules["cuda.bindings.driver"] = cuda.graphs
    engines.runtimes.tensorrt.kernel_images = host_images(kernels.encode())  # type: ignore[assignment]


if __name__ == "__main__":
    install(sys.argv[1], int(sys.argv[2]))
    sys.exit(run_program("fake_gpu_daemon", sys.argv[3:], faulty_daemon.run))
