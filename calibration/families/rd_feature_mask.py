"""Training of family rd_feature_mask: bottleneck, decoder and FMM together; held-back good parts say when to stop."""

from __future__ import annotations

import torch
from torch import Tensor

from calibration.device import half_precision
from calibration.stages import Stage, Validation, hold_back, planned
from calibration.targets import Targets
from engines.networks.feature_mask import random_masks
from engines.networks.rd_feature_mask import RdFeatureMask
from engines.networks.tails import cosine_distances
from engines.settings import TrainingSettings


def student_stage(network: RdFeatureMask, cached: Targets, training: TrainingSettings, seed: int) -> Stage:
    """Eq. 14: sum over levels of mean(M_k) (Eq. 12, 13), each student level masked at random (Eq. 11), and L2.

    lambda_R * sum(w^2) is left to the optimiser, whose weight decay of 2 * lambda_R adds the same gradient. Masks are
    drawn from the seed and the number of the step, which a checkpoint keeps: a resumed run draws the same ones. The
    validation masks nothing, as in use.
    """
    settings = network.model.rd_feature_mask
    training_images, held_back = hold_back(cached.parts, settings.validation_share, seed)
    drawn = torch.zeros(1, dtype=torch.int64)

    def loss(chosen: Tensor) -> Tensor:
        wanted = cached(training_images[chosen])
        with half_precision(cached.device):
            decoded = network.decode(wanted)
            masks = random_masks(decoded, settings.mask_rate, [seed, int(drawn)])
            given = network.restore(decoded, masks)
        drawn.add_(1)
        return _summed(wanted, [level.float() for level in given])

    def validation_loss(images: Tensor) -> Tensor:
        wanted = cached(images)
        return _summed(wanted, network.imitate(cached.images(images), wanted))

    validation = Validation(
        images=held_back, loss=validation_loss, every=settings.validate_every, patience=settings.patience
    )
    stage = planned(
        "student",
        network.students(),
        loss,
        training,
        len(training_images),
        seed,
        extra={"drawn": drawn},
        validation=validation,
    )
    for group in stage.optimiser.param_groups:
        group["weight_decay"] = 2.0 * settings.lambda_r
    return stage


def _summed(targets: list[Tensor], imitations: list[Tensor]) -> Tensor:
    """Eq. 13."""
    return torch.stack([level.mean() for level in cosine_distances(targets, imitations)]).sum()
