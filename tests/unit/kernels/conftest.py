"""The kernels' text compiled once for the CPU."""

from __future__ import annotations

import pytest
from host_kernel import HostKernels, host_library


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """The kernels as they are, runnable on the CPU."""
    return HostKernels(host_library(tmp_path_factory.mktemp("host-kernels")))
