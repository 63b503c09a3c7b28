"""Training of family dtkd: student and ATAA by Eq. 1-10 (= 18), then the decoder by Eq. 19."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from calibration.stages import Stage, planned
from calibration.targets import SMALLEST_VARIANCE, Targets
from engines.networks.decoder import Decoder
from engines.networks.dtkd import DtkdNetwork, distance_map, min_max
from engines.settings import ModelSettings, TrainingSettings

TARGET_QUANTILE = 0.99
"""Of A_DT over a batch: what counts as a target of 1 in Eq. 8, which needs targets in [0, 1]."""
QUANTILE_MOMENTUM = 0.05


def student_stage(
    network: DtkdNetwork,
    cached: Targets,
    training: TrainingSettings,
    seed: int,
) -> Stage:
    """Stage one, Eq. 18 (= Eq. 10): student and ATAA; the teachers' features are looked up.

    Without distillation (an ablation) student and decoder learn to give the image back instead.
    """
    model = network.model
    if not model.distillation:
        return _autoencoder_stage(network, cached, training, seed)
    first = [widths[0] for widths in network.channels]
    running = torch.zeros(1, device=cached.device)  # the running quantile of A_DT

    def loss(chosen: Tensor) -> Tensor:
        wanted, images = cached(chosen), cached.images(chosen)
        imitations = network.imitate(images, wanted)
        distances = distance_map(wanted, imitations, first, model.distance, 0)
        if len(network.teachers) == 2:
            distances = distances + distance_map(wanted, imitations, first, model.distance, 1)  # Eq. 5
        total = distances.mean() + model.lambda_m * distances.amax(dim=(1, 2)).mean()  # Eq. 6
        attention = network.attend(images)
        if attention is not None:
            total = total + _attention_loss(attention, distances, running, model)
        return total

    return planned("student", network.students(), loss, training, len(cached), seed, extra={"running": running})


def _autoencoder_stage(network: DtkdNetwork, cached: Targets, training: TrainingSettings, seed: int) -> Stage:
    """Student and decoder as an autoencoder that no teacher taught: mean |I - I_r|, the first term of Eq. 19."""
    decoder = network.decoder
    if decoder is None:
        raise ValueError("an autoencoder needs the decoder")

    def loss(chosen: Tensor) -> Tensor:
        images = cached.images(chosen)
        return (decoder(network.imitate(images, [])[-1]) - images / 255.0).abs().mean()  # type: ignore[no-any-return]

    return planned("student", (network.student, decoder), loss, training, len(cached), seed)


def _attention_loss(attention: Tensor, distances: Tensor, running: Tensor, model: ModelSettings) -> Tensor:
    """Eq. 8 and 9, weighted as in Eq. 10. `running` is the quantile that brings A_DT into [0, 1]; it is moved along."""
    fixed = distances.detach()
    now = torch.quantile(fixed, TARGET_QUANTILE)
    running.copy_(torch.where(running == 0, now, torch.lerp(running, now, QUANTILE_MOMENTUM)))
    target = (fixed / running.clamp_min(SMALLEST_VARIANCE)).clamp(0, 1)
    predicted = functional.binary_cross_entropy_with_logits(attention, target)
    mask = min_max(attention.detach())
    supported = (mask * distances).mean() + ((1 - mask) * distances).amax(dim=(1, 2)).mean()
    return model.lambda_a * predicted + model.lambda_s * supported


def decoder_stage(
    network: DtkdNetwork,
    decoder: Decoder,
    cached: Targets,
    training: TrainingSettings,
    seed: int,
) -> Stage:
    """Stage two, Eq. 19: the student frozen, the decoder on its last level."""
    model = network.model
    with torch.no_grad():
        codes = torch.cat([network.imitate(chunk, [])[-1] for chunk in cached.chunks()])
    first = [widths[0] for widths in network.channels]

    def loss(chosen: Tensor) -> Tensor:
        reconstruction = decoder(codes[chosen])
        total = (reconstruction - cached.images(chosen) / 255.0).abs().mean()
        again = network.first_targets(reconstruction * 255.0)
        for seen, wanted, width in zip(again, cached(chosen), first, strict=True):
            total = total + model.lambda_c * (seen - wanted[:, :width]).square().mean()
        return total  # type: ignore[no-any-return]

    return planned("decoder", (decoder,), loss, training, len(cached), seed + 1, steps=training.decoder_steps)
