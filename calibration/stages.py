"""One optimisation of a training: its steps, batches and rate, which weights it keeps, where a broken one goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from calibration.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser
from engines.settings import TrainingSettings

Progress = Callable[[str, int, int], None]
LOSSES = "losses."
BEST = "best."
BEST_LOSS = f"{BEST}loss"
BEST_STALE = f"{BEST}stale"
RISING_SHARE = 0.2
FIRST_RATE = 0.04
"""Of the highest one."""
VALIDATION_CHUNK = 16
"""Held-back images per call of a validation's loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Which weights a stage ends with: those of the lowest mean loss over images that it does not train on.

    `loss` maps indices out of `images` to their mean loss; it is called without gradients, in evaluation mode, after
    every `every` steps and after the last. `patience`: the stage ends once so many calls in a row brought no lower
    loss; None: never.
    """

    images: Tensor
    loss: Callable[[Tensor], Tensor]
    every: int
    patience: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is done `steps` times. `loss` maps image indices to a scalar; `rate` maps a step to the learning rate.

    Indices are those of `range(images)`; a stage with a `validation` maps them to the images it trains on (`hold_back`)
    and ends with the weights that the validation chose.
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
    validation: Validation | None = None


class _Best:
    """The weights of the lowest validation loss so far; without a validation it keeps nothing and stops nothing."""

    def __init__(self, stage: Stage) -> None:
        self._trained, self._validation, self._last = stage.trained, stage.validation, stage.steps
        self._loss = float("inf")
        self._stale = 0
        self._weights: dict[str, Tensor] = {}

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        patience = self._validation.patience if self._validation is not None else None
        return patience is not None and self._stale >= patience

    def after(self, steps: int) -> None:
        """Validate where `steps` taken steps call for it, and keep what is best so far."""
        validation = self._validation
        if validation is None or (steps % validation.every and steps != self._last):
            return
        loss = self._measure(validation)
        if loss < self._loss:
            self._loss, self._stale = loss, 0
            self._weights = {name: value.detach().clone() for name, value in self._live().items()}
        else:
            self._stale += 1

    def put_back(self) -> None:
        """Write the best weights into the modules."""
        with torch.no_grad():
            for name, value in self._live().items():
                if name in self._weights:
                    value.copy_(self._weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        if self._validation is None:
            return {}
        loss = torch.tensor(self._loss, dtype=torch.float64)
        return {**self._weights, BEST_LOSS: loss, BEST_STALE: torch.tensor(self._stale)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        if self._validation is None:
            return
        self._loss, self._stale = float(tensors[BEST_LOSS]), int(tensors[BEST_STALE])
        self._weights = {name: tensors[name] for name in self._live() if name in tensors}

    def _live(self) -> dict[str, Tensor]:
        """The trained modules' tensors, which are written in place, by the name that a checkpoint has for them."""
        states = ((number, module.state_dict()) for number, module in enumerate(self._trained))
        return {f"{BEST}{number}.{name}": value for number, state in states for name, value in state.items()}

    def _measure(self, validation: Validation) -> float:
        for module in self._trained:
            module.eval()
        with torch.no_grad():
            chunks = torch.split(validation.images, VALIDATION_CHUNK)
            total = sum(float(validation.loss(chunk)) * len(chunk) for chunk in chunks)
        for module in self._trained:
            module.train()
        return total / len(validation.images)


def run_stage(
    stage: Stage, network: nn.Module, losses: dict[str, Tensor], checkpoint: Checkpoint, progress: Progress
) -> None:
    """Take the stage's steps, from where the checkpoint stands; only what the stage trains is in training mode.

    losses: (steps,) per stage, by LOSSES + name; this stage's are written, and cut where its validation ended it early.
    """
    network.eval()
    for module in stage.trained:
        module.train()
    best, name = _Best(stage), f"{LOSSES}{stage.name}"
    for step in range(_resume(stage, best, checkpoint), stage.steps):
        if best.exhausted:
            losses[name] = losses[name][:step]
            progress(stage.name, stage.steps, stage.steps)
            break
        losses[name][step] = _step(stage, step)
        best.after(step + 1)
        progress(stage.name, step + 1, stage.steps)
        if checkpoint.due():
            tensors = {**trainable(network), **losses, **stage.extra, **optimiser_tensors(stage.optimiser)}
            checkpoint.save(stage.name, step + 1, {**tensors, **best.tensors()})
    best.put_back()
    network.eval()


def _resume(stage: Stage, best: _Best, checkpoint: Checkpoint) -> int:
    """Put back where the stage stands, all but the network's weights; how many steps it has taken."""
    saved = checkpoint.load()
    if saved is None or saved.stage != stage.name:
        return 0
    restore_optimiser(stage.optimiser, saved.tensors)
    for name, value in stage.extra.items():
        value.copy_(saved.tensors[name])
    best.restore(saved.tensors)
    return saved.step


def _step(stage: Stage, step: int) -> Tensor:
    """Take one step; its loss."""
    for group in stage.optimiser.param_groups:
        group["lr"] = stage.rate(step)
    loss = stage.loss(batch_indices(stage.images, stage.batch, stage.seed, step))
    stage.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if stage.largest_gradient is not None:
        for group in stage.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], stage.largest_gradient)
    stage.optimiser.step()
    return loss.detach()


def hold_back(parts: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the images of `parts` (P,), two different ones at least, into those to train on and those to validate on.

    `share` of the parts, at least one, are held back with all their images.
    """
    known = np.unique(parts.numpy())
    order = np.random.default_rng([seed, len(known)]).permutation(len(known))
    held = np.isin(parts.numpy(), known[order[: min(max(round(len(known) * share), 1), len(known) - 1)]])
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Which images a step takes: consecutive pieces of one permutation per epoch, a function of seed and step only."""
    positions = np.arange(step * batch, (step + 1) * batch)
    order = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in np.unique(positions // count)}
    return torch.tensor([int(order[position // count][position % count]) for position in positions])


def trainable(network: nn.Module) -> dict[str, Tensor]:
    """The network's state without its teachers, which never change, and its memory, which no step changes."""
    fixed = ("teachers.", "memory.")
    return {name: value for name, value in network.state_dict().items() if not name.startswith(fixed)}


def planned(  # noqa: PLR0917  (what is trained, on what, and how)
    name: str,
    trained: tuple[nn.Module, ...],
    loss: Callable[[Tensor], Tensor],
    training: TrainingSettings,
    images: int,
    seed: int,
    *,
    steps: int | None = None,
    extra: dict[str, Tensor] | None = None,
    validation: Validation | None = None,
) -> Stage:
    """A stage by the settings' optimiser, rate, schedule and batch; `steps`: instead of `training.steps`.

    The optimiser is Adam, or SGD with momentum 0.9 and weight decay 1e-4.
    """
    taken = training.steps if steps is None else steps
    parameters = [parameter for module in trained for parameter in module.parameters()]
    optimiser: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=training.learning_rate)
    if training.optimiser == "sgd":
        optimiser = torch.optim.SGD(parameters, lr=training.learning_rate, momentum=0.9, weight_decay=1e-4)
    return Stage(
        name=name,
        trained=trained,
        optimiser=optimiser,
        loss=loss,
        rate=partial(_learning_rate, training, taken),
        steps=taken,
        images=images,
        batch=training.batch,
        seed=seed,
        extra=extra or {},
        validation=validation,
    )


def _learning_rate(training: TrainingSettings, steps: int, step: int) -> float:
    done = step / steps
    if training.schedule == "one_cycle":
        return one_cycle(training.learning_rate, done, RISING_SHARE)
    falling = 0.5 * (1 + math.cos(math.pi * done)) if training.schedule == "cosine" else 1.0
    return training.learning_rate * falling


def one_cycle(highest: float, done: float, rising: float) -> float:
    """The rate after this share of the steps (Smith and Topin 2018): a rise over `rising`, a fall to almost nothing."""
    if done < rising:
        return highest * (FIRST_RATE + (1 - FIRST_RATE) * 0.5 * (1 - math.cos(math.pi * done / rising)))
    return highest * 0.5 * (1 + math.cos(math.pi * (done - rising) / (1 - rising)))
