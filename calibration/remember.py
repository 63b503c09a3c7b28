"""Good parts -> the network's memory of their deep features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from calibration.stages import Progress
from calibration.targets import CHUNK
from engines.networks.memory import CAPACITY
from engines.networks.teacher_student import TeacherStudent


def fill_memory(network: TeacherStudent, planes: Tensor, seed: int, progress: Progress) -> None:
    """Remember the patches of planes (P, 3, H, W) of 0..255, CAPACITY of them chosen by the seed where there are more.

    Does nothing without a memory. `progress("memory", done, total)` after each chunk of images.
    """
    memory = network.memory
    if memory is None:
        return
    chosen: list[Tensor] = []
    rng = np.random.default_rng([seed, len(planes)])
    with torch.no_grad():
        height, width = network.remembered(planes[:1]).shape[2:]
        total = len(planes) * height * width
        kept = np.zeros(total, np.bool_)
        kept[rng.permutation(total)[:CAPACITY]] = True
        for start in range(0, len(planes), CHUNK):
            features = network.remembered(planes[start : start + CHUNK])
            rows = features.permute(0, 2, 3, 1).flatten(0, 2)  # N, C, h, w -> N * h * w, C
            first = start * height * width
            chosen.append(rows[torch.from_numpy(kept[first : first + len(rows)])])
            progress("memory", min(start + CHUNK, len(planes)), len(planes))
        memory.remember(torch.cat(chosen))
