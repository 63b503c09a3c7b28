"""Where a training runs, a CUDA GPU or the processor, and how it gives the same weights for the same seed there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from calibration.errors import TrainingDeviceError

DeviceChoice = Literal["auto", "cpu", "cuda"]
CPU = torch.device("cpu")


def training_device(asked: DeviceChoice) -> torch.device:
    """The device for what `calibration.device` asks for.

    Raises TrainingDeviceError where a GPU is demanded and torch finds none.
    """
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        raise TrainingDeviceError(
            f"calibration.device: cuda, but torch {torch.__version__} finds no CUDA GPU (it {built}): see `nvidia-smi` "
            "and docs/gpu.md, or set calibration.device: auto"
        )
    return torch.device("cuda") if found and asked != "cpu" else CPU


def device_name(device: torch.device) -> str:
    """For a person: the GPU's name, or "processor"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"


def device_of(module: nn.Module) -> torch.device:
    """Where a network with weights or buffers lies."""
    return next(itertools.chain(module.parameters(), module.buffers())).device


def half_precision(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """Layers compute in bfloat16 inside it where the hardware has it, else in float32; weights stay in float32.

    A processor without bfloat16 instructions emulates them, which takes 8 to 12 times as long as float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and _has_bfloat16(device))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the arithmetic is real. oneDNN's word alone includes AVX-512 processors on which it emulates it."""
    if device.type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def training_on(device: torch.device) -> Iterator[None]:
    """Until the end of the block the last bits depend on arguments and device only, not on what ran before.

    On the processor the smallest numbers are flushed, because whether they are decides over the last bits; what comes
    after may need them. On a GPU torch takes its deterministic kernels, and warns of an operation that has none; that
    takes an environment variable, which stays set. Raises TrainingDeviceError where the GPU's memory is full.
    """
    if device.type != "cuda":
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read with the first product of matrices
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingDeviceError(
            f"the GPU's memory does not suffice to train ({str(error).splitlines()[0]}): end what else uses it, or set "
            "calibration.device: cpu"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
