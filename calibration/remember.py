"""Good parts -> the network's memory of their deep features, and what it says of a part that it is made to forget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.stages import Progress
from calibration.targets import CHUNK
from engines.networks.memory import CAPACITY
from engines.networks.teacher_student import TeacherStudent
from engines.preprocess import to_planes


class Remembered:
    """Which part each patch of a network's memory comes from."""

    def __init__(self, network: TeacherStudent, owners: NDArray[np.int64]) -> None:
        """owners: (M,) the part of each patch, empty without a memory."""
        self._memory = network.memory
        self._owners = owners

    @contextmanager
    def without(self, part: int) -> Iterator[None]:
        """Until the end of the block this part's patches are gone from the memory; channels and components stay."""
        memory = self._memory
        if memory is None:
            yield
            return
        everything = memory.patches
        memory.patches = everything[torch.from_numpy(self._owners != part)]
        try:
            yield
        finally:
            memory.patches = everything


def fill_memory(
    network: TeacherStudent, images: NDArray[np.uint8], parts: NDArray[np.int64], seed: int, progress: Progress
) -> Remembered:
    """Remember the patches of images (P, H, W, 3) uint8 RGB, CAPACITY of them chosen by the seed where there are more.

    parts: (P,) the part that each image shows. Does nothing without a memory. `progress("memory", done, total)` after
    each chunk of images.
    """
    memory = network.memory
    if memory is None:
        return Remembered(network, np.zeros(0, np.int64))
    chosen: list[Tensor] = []
    rng = np.random.default_rng([seed, len(images)])
    with torch.no_grad():
        height, width = network.remembered(_planes(images[:1])).shape[2:]
        owners = np.repeat(parts, height * width)
        kept = np.zeros(len(owners), np.bool_)
        kept[rng.permutation(len(owners))[:CAPACITY]] = True
        for start in range(0, len(images), CHUNK):
            features = network.remembered(_planes(images[start : start + CHUNK]))
            rows = features.permute(0, 2, 3, 1).flatten(0, 2)  # N, C, h, w -> N * h * w, C
            first = start * height * width
            chosen.append(rows[torch.from_numpy(kept[first : first + len(rows)])])
            progress("memory", min(start + CHUNK, len(images)), len(images))
        memory.remember(torch.cat(chosen))
    return Remembered(network, owners[kept])


def _planes(images: NDArray[np.uint8]) -> Tensor:
    return to_planes(torch.from_numpy(np.ascontiguousarray(images)))
