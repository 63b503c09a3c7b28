"""Training of family stpm: the student matches the teacher's pyramid; held-back good parts choose its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from calibration.device import half_precision
from calibration.stages import Stage, Validation, hold_back, planned
from calibration.targets import Targets
from engines.networks.stpm import StpmNetwork, level_loss
from engines.settings import TrainingSettings
from engines.teachers import SPECS


def student_stage(network: StpmNetwork, cached: Targets, training: TrainingSettings, seed: int) -> Stage:
    """Eq. 1-3: the weighted sum over levels of the mean loss per position; the lowest on held-back parts is kept.

    `score: calibrated` compares standardised features, whose lengths count too: there a level's loss is their mean
    squared difference (docs/scores.md).
    """
    settings = network.model.stpm
    # The depthwise convolutions of Lite are slower in it.
    half = SPECS[network.model.teachers[0]].family != "lite"
    training_images, held_back = hold_back(cached.parts, settings.validation_share, seed)

    def loss(images: Tensor) -> Tensor:
        wanted = cached(images)
        with half_precision(cached.device, enabled=half):
            imitations = network.imitate(cached.images(images), wanted)
        total = torch.zeros((), device=cached.device)
        for k in network.used:
            total = total + settings.level_weights[k] * _level_loss(
                network.model.score, wanted[k], imitations[k].float()
            )
        return total

    return planned(
        "student",
        network.students(),
        lambda chosen: loss(training_images[chosen]),
        training,
        len(training_images),
        seed,
        validation=Validation(images=held_back, loss=loss, every=settings.validate_every),
    )


def _level_loss(score: str, target: Tensor, imitation: Tensor) -> Tensor:
    return level_loss(target, imitation).mean() if score == "paper" else (target - imitation).square().mean()
