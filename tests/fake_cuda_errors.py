"""What the FAKE CUDA driver raises. Not a test."""

from __future__ import annotations


class CudaError(Exception):
    """pycuda.driver.Error."""


class Misuse(AssertionError):
    """What a real driver would punish with a crash or with wrong bytes; the fake says it."""
