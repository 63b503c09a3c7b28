"""One optimisation of a training: its steps, its batches, its rate, and where an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from calibration.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser

Progress = Callable[[str, int, int], None]
LOSSES = "losses."


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is done `steps` times. `loss` maps image indices to a scalar; `rate` maps a step to the learning rate.

    `largest_gradient`: a longer one is shortened to this norm.
    `extra`: tensors that a checkpoint keeps beside the modules and the optimiser.
    """

    name: str
    trained: tuple[nn.Module, ...]
    optimiser: torch.optim.Optimizer
    loss: Callable[[Tensor], Tensor]
    rate: Callable[[int], float]
    steps: int
    images: int
    batch: int
    seed: int
    largest_gradient: float | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)


def run_stage(
    stage: Stage, network: nn.Module, losses: dict[str, Tensor], checkpoint: Checkpoint, progress: Progress
) -> None:
    """Take the stage's steps, from where the checkpoint stands; only what the stage trains is in training mode.

    losses: (steps,) per stage, by LOSSES + name; this stage's are written.
    """
    network.eval()
    for module in stage.trained:
        module.train()
    start = 0
    saved = checkpoint.load()
    if saved is not None and saved.stage == stage.name:
        start = saved.step
        restore_optimiser(stage.optimiser, saved.tensors)
        for name, value in stage.extra.items():
            value.copy_(saved.tensors[name])
    for step in range(start, stage.steps):
        for group in stage.optimiser.param_groups:
            group["lr"] = stage.rate(step)
        loss = stage.loss(batch_indices(stage.images, stage.batch, stage.seed, step))
        stage.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if stage.largest_gradient is not None:
            for group in stage.optimiser.param_groups:
                nn.utils.clip_grad_norm_(group["params"], stage.largest_gradient)
        stage.optimiser.step()
        losses[LOSSES + stage.name][step] = loss.detach()
        progress(stage.name, step + 1, stage.steps)
        if checkpoint.due():
            tensors = {**trainable(network), **losses, **stage.extra, **optimiser_tensors(stage.optimiser)}
            checkpoint.save(stage.name, step + 1, tensors)
    network.eval()


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Which images a step takes: consecutive pieces of one permutation per epoch, a function of seed and step only."""
    positions = np.arange(step * batch, (step + 1) * batch)
    order = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in np.unique(positions // count)}
    return torch.tensor([int(order[position // count][position % count]) for position in positions])


def trainable(network: nn.Module) -> dict[str, Tensor]:
    """The network's state without its teachers, which never change."""
    return {name: value for name, value in network.state_dict().items() if not name.startswith("teachers.")}
