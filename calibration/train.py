"""Good part images -> trained network: the family's student, dtkd's decoder, then the discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.checkpoint import Checkpoint, fingerprint
from calibration.device import CPU, training_on
from calibration.discriminate import discriminator_stage, take_up
from calibration.errors import TooFewParts
from calibration.families import student_stage
from calibration.families.dtkd import decoder_stage
from calibration.stages import LOSSES, Progress, Stage, run_stage, trainable
from calibration.targets import Targets, standards, teacher_scales
from engines.networks.dtkd import DtkdNetwork
from engines.networks.families import new_network
from engines.networks.rd_two_teachers import RdTwoTeachers
from engines.networks.teacher_student import TeacherStudent
from engines.preprocess import to_planes
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings
from engines.teachers import load_teachers

Images = NDArray[np.uint8]
LEAST_IMAGES = 4
DONE = "done"
RECIPE = 3
"""Raised whenever training changes: a checkpoint of another recipe is not continued."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The network in evaluation mode, and the loss of each step by stage."""

    network: TeacherStudent
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
    parts: NDArray[np.int64] | None = None,
    device: torch.device = CPU,
) -> Trained:
    """Train the network of the settings' family on good part images (P, H, W, 3) uint8 RGB; blocks for minutes.

    A memory stays empty: no training fills it (calibration.remember).

    parts: (P,) the part that each image shows; None: one each. device: where it trains; the network comes back to the
    processor. The result depends on the arguments and the kind of device only. With `work`, a run that was killed
    resumes from that folder and ends with the very same weights. `progress(stage, done, total)` is called after each
    step. Raises TooFewParts, WeightsError.
    """
    if len(images) < LEAST_IMAGES:
        raise TooFewParts(f"{len(images)} good parts to train on: at least {LEAST_IMAGES} are needed")
    described = {
        "model": model.model_dump(mode="json"),
        "regions": [region.model_dump(mode="json") for region in regions],
        "training": training.model_dump(mode="json"),
        "seed": seed,
        "parts": None if parts is None else parts.tolist(),
        "device": device.type,
        "made by": [RECIPE, version("inspectd"), torch.__version__],  # another one would not end it alike
    }
    checkpoint = Checkpoint(work, fingerprint(np.ascontiguousarray(images).data, described))
    with training_on(device):
        network = _untrained(model, canvas, regions, seed).to(device)
        planes = to_planes(torch.from_numpy(images))
        shown = torch.arange(len(images)) if parts is None else torch.from_numpy(np.ascontiguousarray(parts))
        cached = cache(lambda: Targets(network, planes, shown))
        saved = checkpoint.load()
        if saved is None:
            _bring_to_scale(network, cached)
        else:
            network.load_state_dict({name: saved.tensors[name] for name in trainable(network)}, strict=False)
        losses = _run_stages(_stages(network, planes, cached, regions, training, seed), network, checkpoint, progress)
    return Trained(network.to(CPU).eval(), {name.removeprefix(LOSSES): loss.numpy() for name, loss in losses.items()})


def _bring_to_scale(network: TeacherStudent, targets: Callable[[], Targets]) -> None:
    """Teacher channels standardised where the score wants it; two teachers whose levels are compared as one, alike."""
    with torch.no_grad():
        if network.model.score == "calibrated":
            network.standardise(*standards(network, targets()))
        elif isinstance(network, RdTwoTeachers):
            network.standardise(*teacher_scales(network, targets()))


def _run_stages(
    planned: tuple[dict[str, Callable[[], Stage]], dict[str, int]],
    network: TeacherStudent,
    checkpoint: Checkpoint,
    progress: Progress,
) -> dict[str, Tensor]:
    """Run what `_stages` planned, from where the checkpoint stands; the loss of each step by LOSSES + stage."""
    makers, steps = planned
    saved = checkpoint.load()
    losses = {f"{LOSSES}{name}": torch.zeros(count) for name, count in steps.items()}
    if saved is not None:
        losses = {name: saved.tensors[name] for name in losses}
    if saved is None or saved.stage != DONE:
        begun = 0 if saved is None else list(makers).index(saved.stage)
        for make in list(makers.values())[begun:]:
            run_stage(make(), network, losses, checkpoint, progress)
        checkpoint.save(DONE, 0, {**trainable(network), **losses})
    return losses


def _untrained(
    model: ModelSettings, canvas: CanvasSettings, regions: Sequence[RegionSettings], seed: int
) -> TeacherStudent:
    """The network with its first weights, which depend on the seed only. Raises WeightsError."""
    teachers = load_teachers(model, canvas, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(model, canvas, regions, teachers)
    if not isinstance(network, TeacherStudent):
        raise TypeError("score: memory has nothing to train")
    if network.discriminator is not None:
        take_up(network.discriminator)
    return network.eval()


def _stages(  # noqa: PLR0917  (what is trained, on what, and how)
    network: TeacherStudent,
    planes: Tensor,
    targets: Callable[[], Targets],
    regions: Sequence[RegionSettings],
    training: TrainingSettings,
    seed: int,
) -> tuple[dict[str, Callable[[], Stage]], dict[str, int]]:
    """What makes each stage once those before it are done, in order, and how many steps it has."""
    makers: dict[str, Callable[[], Stage]] = {"student": lambda: student_stage(network, targets(), training, seed)}
    steps = {"student": training.steps}
    taught = network.model.distillation  # an autoencoder's decoder is trained with its student
    if isinstance(network, DtkdNetwork) and (decoder := network.decoder) is not None and taught:
        makers["decoder"] = lambda: decoder_stage(network, decoder, targets(), training, seed)
        steps["decoder"] = training.decoder_steps
    if (discriminator := network.discriminator) is not None:
        makers["discriminator"] = lambda: discriminator_stage(discriminator, planes, regions, training, seed)
        steps["discriminator"] = training.discriminator_steps
    return makers, steps
