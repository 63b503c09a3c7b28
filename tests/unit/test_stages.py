"""Validation of a stage: which weights it ends with, when it stops, and that a broken one ends like a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calibration import checkpoint as checkpoint_module
from calibration.checkpoint import Checkpoint
from calibration.stages import LOSSES, Stage, Validation, hold_back, run_stage, trainable

STEPS = 12
BEST = 5.0
"""Where the validation loss is lowest; each step adds 1."""


class Marching(nn.Module):
    """One weight, and a buffer that counts the forward passes in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("passes", torch.zeros(1))
        self.passes: Tensor

    def forward(self) -> Tensor:
        """The weight."""
        if self.training:
            self.passes += 1
        return self.weight


class Broken(Exception):
    """Power is gone."""


def stage(module: Marching, *, every: int = 1, patience: int | None = None, break_at: float = 1e9) -> Stage:
    """A stage in which gradient descent walks past the best weight; it breaks where the weight is `break_at`."""

    def loss(_chosen: Tensor) -> Tensor:
        if module.weight.item() >= break_at:
            raise Broken
        return -module().sum()

    def off(chosen: Tensor) -> Tensor:
        assert not module.training
        assert chosen.tolist() == [7, 9]
        return (module() - BEST).square().sum()

    return Stage(
        name="march",
        trained=(module,),
        optimiser=torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.0),
        loss=loss,
        rate=lambda _step: 1.0,
        steps=STEPS,
        images=4,
        batch=2,
        seed=0,
        validation=Validation(images=torch.tensor([7, 9]), loss=off, every=every, patience=patience),
    )


def ended(made: Stage, module: Marching, checkpoint: Checkpoint) -> tuple[Tensor, list[tuple[int, int]]]:
    """The losses of a stage that went on from where its checkpoint stands, and what it reported."""
    saved = checkpoint.load()
    losses = {f"{LOSSES}march": torch.zeros(STEPS)}
    if saved is not None:
        module.load_state_dict({name: saved.tensors[name] for name in trainable(module)})
        losses = {name: saved.tensors[name] for name in losses}
    seen: list[tuple[int, int]] = []
    run_stage(made, module, losses, checkpoint, lambda _stage, done, total: seen.append((done, total)))
    return losses[f"{LOSSES}march"], seen


@pytest.mark.parametrize(("every", "kept"), [(1, 5.0), (2, 4.0), (7, 7.0), (50, 12.0)])
def test_a_stage_ends_with_the_best_weights(every: int, kept: float) -> None:
    """Of the steps that are validated, the one with the lowest loss gives weights and buffers; the last counts too."""
    module = Marching()
    losses, seen = ended(stage(module, every=every), module, Checkpoint(None, ""))
    assert (module.weight.item(), module.passes.item()) == (kept, kept)
    assert losses.tolist() == [-float(step) for step in range(STEPS)]
    assert seen[-1] == (STEPS, STEPS)


def test_patience_ends_a_stage_early() -> None:
    """After two validations in a row without a lower loss there is no further step, and no loss of one."""
    module = Marching()
    losses, seen = ended(stage(module, patience=2), module, Checkpoint(None, ""))
    assert module.weight.item() == BEST
    assert losses.tolist() == [-float(step) for step in range(7)]
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5, 6, 7, STEPS]


@pytest.mark.parametrize("break_at", [3.0, 5.0, 6.0, 8.0])
@pytest.mark.parametrize("patience", [None, 2, 3])
def test_a_broken_validated_stage_goes_on_alike(
    break_at: float, patience: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken before, at or after the best step, or where patience has run out, it ends like an unbroken one."""
    monkeypatch.setattr(checkpoint_module, "SECONDS_BETWEEN", 0.0)
    whole, resumed = Marching(), Marching()
    expected, _ = ended(stage(whole, patience=patience), whole, Checkpoint(None, ""))
    broken = Marching()
    runs_out = patience is not None and break_at >= BEST + patience
    if runs_out:
        ended(stage(broken, patience=patience), broken, Checkpoint(tmp_path, "same"))
    else:
        with pytest.raises(Broken):
            ended(stage(broken, patience=patience, break_at=break_at), broken, Checkpoint(tmp_path, "same"))
    losses, _ = ended(stage(resumed, patience=patience), resumed, Checkpoint(tmp_path, "same"))
    assert torch.equal(losses, expected)
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    )


def test_held_back_images_are_a_share_of_all() -> None:
    """Both parts together are all images, each in one; depends on the seed; each side has at least one."""
    training, held = hold_back(torch.arange(20), 0.2, seed=3)
    assert (len(training), len(held)) == (16, 4)
    assert sorted([*training.tolist(), *held.tolist()]) == list(range(20))
    assert torch.equal(hold_back(torch.arange(20), 0.2, seed=3)[1], held)
    assert not torch.equal(hold_back(torch.arange(20), 0.2, seed=4)[1], held)
    assert [len(side) for side in hold_back(torch.arange(2), 0.01, seed=0)] == [1, 1]


def test_images_of_one_part_are_held_back_together() -> None:
    """A part that the student trains on never chooses its weights."""
    parts = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]).repeat(4)
    training, held = hold_back(parts, 0.25, seed=0)
    assert len(parts[held].unique()) == 1
    assert not set(parts[held].tolist()) & set(parts[training].tolist())
