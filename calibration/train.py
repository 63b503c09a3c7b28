"""Good part images -> trained network: student and ATAA, the decoder (Eq. 1-10, 18, 19), then the discriminator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from calibration.checkpoint import Checkpoint, fingerprint
from calibration.discriminate import discriminator_stage
from calibration.errors import TooFewParts
from calibration.stages import LOSSES, Progress, Stage, run_stage, trainable
from engines.networks.decoder import Decoder
from engines.networks.discriminator import new_discriminator
from engines.networks.dtkd import DtkdNetwork, distance_map, min_max
from engines.networks.fused import LEVELS
from engines.preprocess import to_planes
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings
from engines.teachers import load_teacher

Images = NDArray[np.uint8]
CHUNK = 16
"""Images that pass through the teachers at once."""
SMALLEST_VARIANCE = 1e-6
"""Of a teacher channel over normal parts: a dead channel stays near zero instead of dividing by it."""
CACHE_BYTES = 1 << 30
"""Teacher features of all images are kept up to this size, else computed again for each batch."""
LEAST_IMAGES = 4
TARGET_QUANTILE = 0.99
"""Of A_DT over a batch: what counts as a target of 1 in Eq. 8, which needs targets in [0, 1]."""
QUANTILE_MOMENTUM = 0.05
DONE = "done"


@dataclass(frozen=True, slots=True)
class Trained:
    """The network in evaluation mode, and the loss of each step by stage."""

    network: DtkdNetwork
    losses: Mapping[str, NDArray[np.float32]]


def train(
    images: Images,
    model: ModelSettings,
    training: TrainingSettings,
    *,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    seed: int,
    work: Path | None,
    progress: Progress,
) -> Trained:
    """Train a dtkd network on good part images (P, H, W, 3) uint8 RGB; blocks for minutes.

    The result depends on the arguments only. With `work`, a run that was killed resumes from that folder and ends with
    the very same weights. `progress(stage, done, total)` is called after each step. Raises TooFewParts, WeightsError.
    """
    if len(images) < LEAST_IMAGES:
        raise TooFewParts(f"{len(images)} good parts to train on: at least {LEAST_IMAGES} are needed")
    torch.set_flush_denormal(True)  # whatever ran before in this process: it decides over the last bits
    network = _untrained(model, canvas, regions, seed)
    described = {
        "model": model.model_dump(mode="json"),
        "regions": [region.model_dump(mode="json") for region in regions],
        "training": training.model_dump(mode="json"),
        "seed": seed,
    }
    checkpoint = Checkpoint(work, fingerprint(np.ascontiguousarray(images).data, described))
    planes = to_planes(torch.from_numpy(images))
    saved = checkpoint.load()
    if saved is None and model.score == "calibrated":
        with torch.no_grad():
            network.standardise(*_channel_statistics(network, planes))
    if saved is not None:
        own = trainable(network)
        network.load_state_dict({name: saved.tensors[name] for name in own}, strict=False)
    makers, steps = _stages(network, planes, regions, model, training, seed)
    losses = {f"{LOSSES}{name}": torch.zeros(count) for name, count in steps.items()}
    if saved is not None:
        losses = {name: saved.tensors[name] for name in losses}
    if saved is None or saved.stage != DONE:
        begun = 0 if saved is None else list(makers).index(saved.stage)
        for make in list(makers.values())[begun:]:
            run_stage(make(), network, losses, checkpoint, progress)
        checkpoint.save(DONE, 0, {**trainable(network), **losses})
    return Trained(network.eval(), {name.removeprefix(LOSSES): values.numpy() for name, values in losses.items()})


def _untrained(
    model: ModelSettings, canvas: CanvasSettings, regions: Sequence[RegionSettings], seed: int
) -> DtkdNetwork:
    """The network with its first weights, which depend on the seed only. Raises WeightsError."""
    folder = Path(model.weights_folder) if model.weights_folder else None
    teachers = [load_teacher(name, LEVELS, folder) for name in model.teachers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DtkdNetwork(model, teachers, new_discriminator(model, canvas, regions))
    return network.eval()


def _stages(  # noqa: PLR0917  (what is trained, on what, and how)
    network: DtkdNetwork,
    planes: Tensor,
    regions: Sequence[RegionSettings],
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
) -> tuple[dict[str, Callable[[], Stage]], dict[str, int]]:
    """What makes each stage once those before it are done, in order, and how many steps it has."""
    targets = cache(lambda: _Targets(network, planes))
    makers: dict[str, Callable[[], Stage]] = {
        "student": lambda: _student_stage(network, targets(), model, training, seed)
    }
    steps = {"student": training.steps}
    decoder, discriminator = network.decoder, network.discriminator
    if decoder is not None:
        makers["decoder"] = lambda: _decoder_stage(network, decoder, targets(), model, training, seed)
        steps["decoder"] = training.decoder_steps
    if discriminator is not None:
        makers["discriminator"] = lambda: discriminator_stage(discriminator, planes, regions, training, seed)
        steps["discriminator"] = training.discriminator_steps
    return makers, steps


def _student_stage(
    network: DtkdNetwork,
    cached: _Targets,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
) -> Stage:
    """Stage one, Eq. 18 (= Eq. 10): student and ATAA; the teachers' features are looked up."""
    planes = cached.planes
    first = [widths[0] for widths in network.channels]
    running = torch.zeros(1)  # the running quantile of A_DT
    trained: tuple[nn.Module, ...] = (network.student,)
    if network.attention is not None:
        trained = (network.student, network.attention)

    def loss(chosen: Tensor) -> Tensor:
        wanted, imitations = cached(chosen), network.imitate(planes[chosen])
        distances = distance_map(wanted, imitations, first, model.distance, 0)
        if len(network.teachers) == 2:
            distances = distances + distance_map(wanted, imitations, first, model.distance, 1)  # Eq. 5
        total = distances.mean() + model.lambda_m * distances.amax(dim=(1, 2)).mean()  # Eq. 6
        attention = network.attend(planes[chosen])
        if attention is not None:
            total = total + _attention_loss(attention, distances, running, model)
        return total

    optimiser = _optimiser([p for module in trained for p in module.parameters()], training)
    return Stage(
        name="student",
        trained=trained,
        optimiser=optimiser,
        loss=loss,
        rate=partial(_rate, training, training.steps),
        steps=training.steps,
        images=len(planes),
        batch=training.batch,
        seed=seed,
        extra={"running": running},
    )


def _attention_loss(attention: Tensor, distances: Tensor, running: Tensor, model: ModelSettings) -> Tensor:
    """Eq. 8 and 9, weighted as in Eq. 10. `running` is the quantile that brings A_DT into [0, 1]; it is moved along."""
    fixed = distances.detach()
    now = torch.quantile(fixed, TARGET_QUANTILE)
    running.copy_(now if running.item() == 0 else torch.lerp(running, now, QUANTILE_MOMENTUM))
    target = (fixed / running.clamp_min(SMALLEST_VARIANCE)).clamp(0, 1)
    predicted = functional.binary_cross_entropy_with_logits(attention, target)
    mask = min_max(attention.detach())
    supported = (mask * distances).mean() + ((1 - mask) * distances).amax(dim=(1, 2)).mean()
    return model.lambda_a * predicted + model.lambda_s * supported


def _decoder_stage(  # noqa: PLR0917  (what is trained, on what, and how)
    network: DtkdNetwork,
    decoder: Decoder,
    cached: _Targets,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
) -> Stage:
    """Stage two, Eq. 19: the student frozen, the decoder on its last level."""
    planes = cached.planes
    with torch.no_grad():
        codes = torch.cat([network.imitate(chunk)[-1] for chunk in torch.split(planes, CHUNK)])
    first = [widths[0] for widths in network.channels]

    def loss(chosen: Tensor) -> Tensor:
        reconstruction = decoder(codes[chosen])
        total = (reconstruction - planes[chosen] / 255.0).abs().mean()
        again = network.first_targets(reconstruction * 255.0)
        for seen, wanted, width in zip(again, cached(chosen), first, strict=True):
            total = total + model.lambda_c * (seen - wanted[:, :width]).square().mean()
        return total  # type: ignore[no-any-return]

    optimiser = _optimiser(list(decoder.parameters()), training)
    return Stage(
        name="decoder",
        trained=(decoder,),
        optimiser=optimiser,
        loss=loss,
        rate=partial(_rate, training, training.decoder_steps),
        steps=training.decoder_steps,
        images=len(planes),
        batch=training.batch,
        seed=seed + 1,
    )


class _Targets:
    """Teacher features of chosen images: looked up where all fit into CACHE_BYTES, else computed."""

    def __init__(self, network: DtkdNetwork, planes: Tensor) -> None:
        self._network, self.planes = network, planes
        with torch.no_grad():
            one = sum(level.numel() * level.element_size() for level in network.targets(planes[:1]))
            self._levels: list[Tensor] | None = None
            if one * len(planes) <= CACHE_BYTES:
                chunks = [network.targets(chunk) for chunk in torch.split(planes, CHUNK)]
                self._levels = [torch.cat(level) for level in zip(*chunks, strict=True)]

    def __call__(self, chosen: Tensor) -> list[Tensor]:
        if self._levels is not None:
            return [level[chosen] for level in self._levels]
        with torch.no_grad():
            return self._network.targets(self.planes[chosen])


def _channel_statistics(network: DtkdNetwork, planes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and deviation of each teacher channel over all positions of all images: two lists of (C,), one per level."""
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    positions: list[int] = []
    for chunk in torch.split(planes, CHUNK):
        for k, level in enumerate(network.targets(chunk)):
            values = level.double().transpose(0, 1).flatten(1)  # N, C, H, W -> C, N * H * W
            if len(sums) == k:
                sums.append(torch.zeros(len(values), dtype=torch.float64))
                squares.append(torch.zeros(len(values), dtype=torch.float64))
                positions.append(0)
            sums[k] += values.sum(dim=1)
            squares[k] += values.square().sum(dim=1)
            positions[k] += values.shape[1]
    means = [total / count for total, count in zip(sums, positions, strict=True)]
    variances = [
        (square / count - mean.square()).clamp_min(SMALLEST_VARIANCE)
        for square, count, mean in zip(squares, positions, means, strict=True)
    ]
    return [mean.float() for mean in means], [variance.sqrt().float() for variance in variances]


def _rate(training: TrainingSettings, steps: int, step: int) -> float:
    falling = 0.5 * (1 + math.cos(math.pi * step / steps)) if training.schedule == "cosine" else 1.0
    return training.learning_rate * falling


def _optimiser(parameters: list[nn.Parameter], training: TrainingSettings) -> torch.optim.Optimizer:
    if training.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=training.learning_rate)
    return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=0.9, weight_decay=1e-4)
