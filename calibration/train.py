"""Good part images -> trained network: stage one teaches student and ATAA, stage two the decoder (Eq. 1-10, 18, 19)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engines.networks.dtkd import DtkdNetwork, distance_map, min_max
from engines.networks.fused import LEVELS
from engines.preprocess import to_planes
from engines.settings import ModelSettings, TrainingSettings
from engines.teachers import load_teacher

Progress = Callable[[str, int, int], None]
Images = NDArray[np.uint8]


def train(
    images: Images,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
    work: Path | None,
    progress: Progress,
) -> DtkdNetwork:
    """Train a dtkd network on good part images (P, H, W, 3) uint8 RGB; blocks for minutes."""
    folder = Path(model.weights_folder) if model.weights_folder else None
    teachers = [load_teacher(name, LEVELS, folder) for name in model.teachers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DtkdNetwork(model, teachers)
    planes = to_planes(torch.from_numpy(images))
    with torch.no_grad():
        targets = [
            torch.cat(level) for level in zip(*(network.targets(chunk) for chunk in planes.split(8)), strict=True)
        ]
    first = [widths[0] for widths in network.channels]
    network.train()
    parameters = [*network.student.parameters(), *(network.attention.parameters() if network.attention else ())]
    optimiser = _optimiser(parameters, training)
    quantile = torch.zeros(())
    for step in range(training.steps):
        chosen = batch_indices(len(images), training.batch, seed, step)
        batch = planes[chosen]
        wanted = [level[chosen] for level in targets]
        imitations = network.imitate(batch)
        distances = distance_map(wanted, imitations, first, model.distance, 0)
        if len(teachers) == 2:
            distances = distances + distance_map(wanted, imitations, first, model.distance, 1)
        loss = distances.mean() + model.lambda_m * distances.amax(dim=(1, 2)).mean()  # Eq. 6
        attention = network.attend(batch)
        if attention is not None:
            fixed = distances.detach()
            quantile = torch.lerp(quantile, torch.quantile(fixed, 0.99), 0.05 if step else 1.0)
            target = (fixed / quantile).clamp(0, 1)
            loss = loss + model.lambda_a * functional.binary_cross_entropy_with_logits(attention, target)  # Eq. 8
            mask = min_max(attention.detach())
            loss = loss + model.lambda_s * (  # Eq. 9
                (mask * distances).mean() + ((1 - mask) * distances).amax(dim=(1, 2)).mean()
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("student", step + 1, training.steps)
    network.eval()
    if network.decoder is not None:
        _train_decoder(network, planes, targets, model, training, seed, progress)
    return network.eval()


def _train_decoder(
    network: DtkdNetwork,
    planes: Tensor,
    targets: list[Tensor],
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
    progress: Progress,
) -> None:
    """Stage two, Eq. 19: the student frozen, the decoder on its last level."""
    decoder = network.decoder
    if decoder is None:
        return
    with torch.no_grad():
        codes = torch.cat([network.imitate(chunk)[-1] for chunk in planes.split(32)])
    first = [widths[0] for widths in network.channels]
    decoder.train()
    optimiser = _optimiser(list(decoder.parameters()), training)
    for step in range(training.decoder_steps):
        chosen = batch_indices(len(planes), training.batch, seed + 1, step)
        reconstruction = decoder(codes[chosen])
        loss = (reconstruction - planes[chosen] / 255.0).abs().mean()
        for again, level, width in zip(network.targets(reconstruction * 255.0), targets, first, strict=True):
            loss = loss + model.lambda_c * (again[:, :width] - level[chosen][:, :width]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress("decoder", step + 1, training.decoder_steps)
    decoder.eval()


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Which images step `step` takes: consecutive pieces of one permutation per epoch, a function of seed and step only."""
    positions = np.arange(step * batch, (step + 1) * batch)
    order = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in np.unique(positions // count)}
    return torch.tensor([int(order[position // count][position % count]) for position in positions])


def _optimiser(parameters: list[torch.nn.Parameter], training: TrainingSettings) -> torch.optim.Optimizer:
    if training.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=training.learning_rate)
    return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=0.9, weight_decay=1e-4)
