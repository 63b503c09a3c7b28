"""Where training stands, in one file that is replaced whole: an interrupted calibration resumes from it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engines.writing import writing

SECONDS_BETWEEN = 10.0
FILE = "training.safetensors"
OPTIMISER = "optimiser."


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds: `step` steps of `stage` are done; `tensors` by name."""

    stage: str
    step: int
    tensors: dict[str, Tensor]


class Checkpoint:
    """One training run's file in `folder`; None keeps nothing. A file with another `fingerprint` is ignored."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._path = None if folder is None else folder / FILE
        self._fingerprint = fingerprint
        self._saved_s = time.monotonic()

    def load(self) -> Saved | None:
        """What was saved of this very run, or None. A damaged file counts as none: training then starts over."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != self._fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            return Saved(metadata["stage"], int(metadata["step"]), tensors)
        except (SafetensorError, OSError, KeyError, ValueError):
            return None

    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return self._path is not None and time.monotonic() - self._saved_s >= SECONDS_BETWEEN

    def save(self, stage: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the file; a kill at any moment leaves the old one or the new one. Blocks for the disk."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".part")
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        with writing(fresh):
            save_file(copies, fresh, metadata={"fingerprint": self._fingerprint, "stage": stage, "step": str(step)})
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self._saved_s = time.monotonic()


def fingerprint(images: bytes | memoryview, described: Mapping[str, object]) -> str:
    """Hash of everything that a training run depends on: its images, and its settings as JSON values."""
    digest = hashlib.sha256(images)
    digest.update(json.dumps({**described, "torch": torch.__version__}, sort_keys=True).encode())
    return digest.hexdigest()


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by name, for a checkpoint."""
    state = optimiser.state_dict()["state"]
    return {
        f"{OPTIMISER}{index}.{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(OPTIMISER):
            index, entry = name.removeprefix(OPTIMISER).split(".", 1)
            state.setdefault(int(index), {})[entry] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
