"""Training of family rd_two_teachers: fusion module and student together, by the cosine of each level (Eq. 1 and 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from calibration.device import half_precision
from calibration.stages import Stage, planned
from calibration.targets import Targets
from engines.networks.rd_two_teachers import RdTwoTeachers
from engines.networks.tails import cosine_distances
from engines.settings import TrainingSettings

BETAS = (0.5, 0.999)
"""Of Adam, section 4.3."""


def student_stage(network: RdTwoTeachers, cached: Targets, training: TrainingSettings, seed: int) -> Stage:
    """Stage one: loss = sum over levels of mean(M_k), Eq. 2; the teachers' features are looked up."""

    def loss(chosen: Tensor) -> Tensor:
        wanted = cached(chosen)
        with half_precision(cached.device):
            given = network.decode(wanted)
        distances = cosine_distances(wanted, [level.float() for level in given])
        return torch.stack([level.mean() for level in distances]).sum()

    stage = planned("student", network.students(), loss, training, len(cached), seed)
    if training.optimiser == "adam":
        for group in stage.optimiser.param_groups:
            group["betas"] = BETAS
    return stage
