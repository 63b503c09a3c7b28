"""The stage that fits the discriminator to a station: good parts, most with drawn-on defects, against their masks.

It begins with what was learnt once on stations that do not exist (tools/teach_discriminator.py): what its members see
are deviations from good parts in units of their spread, which look much alike everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from calibration.device import device_of, half_precision
from calibration.drawn_defects import DefectPainter
from calibration.stages import Stage, one_cycle
from calibration.surface import has_no_direction, in_canonical_pose, introduce
from engines.errors import WeightsError
from engines.networks.discriminator import LOGIT_STRIDE, MEMBERS, Discriminator
from engines.settings import RegionSettings, TrainingSettings

TAUGHT = Path(__file__).with_name("discriminator.safetensors")
"""The members as tools/teach_discriminator.py taught them, on no product at all: what every station begins with."""
PIXELS_PER_STEP = 75_000
LEAST_BATCH, LARGEST_BATCH = 4, 32
HIGHEST_RATE = 4e-3
RISING_SHARE = 0.3
WEIGHT_DECAY = 1e-4
LARGEST_GRADIENT = 1.0
"""Of a member alone. The loss is the members' mean, whose gradient is shorter by the root of their number where theirs
are equally long."""
PIXEL_WEIGHT, PART_WEIGHT = 5.0, 0.3
"""Of the mean over positions, and of the one over parts: what counts in the end is a part's highest logit."""
DEFECT_WEIGHT = 4.0
"""Of a position on a defect: there are few."""
GOOD_SHARE = 0.25
"""Parts of a batch that stay good."""
SECOND_DEFECT_SHARE = 0.3
LIGHT_SPREAD = 0.03


def take_up(discriminator: Discriminator) -> None:
    """Give the members what they learnt before any station. Raises WeightsError where the package lacks the file."""
    try:
        taught = load_file(TAUGHT)
        for number, member in enumerate(discriminator.members):
            own = f"{number}."
            named = {name.removeprefix(own): value for name, value in taught.items() if name.startswith(own)}
            member.load_state_dict(named)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{TAUGHT}: cannot be read: {str(error).splitlines()[0]}; install inspectd again") from error


def discriminator_stage(
    discriminator: Discriminator,
    planes: Tensor,
    regions: Sequence[RegionSettings],
    training: TrainingSettings,
    seed: int,
) -> Stage:
    """Tell the discriminator what good parts (P, 3, H, W) of 0..255 look like, and plan its training.

    Each member is shown defects of its own: what they make of the same ones, they have in common, and no mean takes
    that away. Parts in no canonical pose, whose surface has no direction, are also turned and mirrored.
    Defects are drawn by the processor, wherever the discriminator is.
    """
    view = discriminator.view
    with torch.no_grad():
        seen = torch.cat([view.cut(chunk) for chunk in torch.split(planes, 16)])
        inside = _inside(discriminator, regions)
        canonical = in_canonical_pose(functional.avg_pool2d(seen, 8))
        device = device_of(discriminator)
        introduce(discriminator, seen.to(device), inside.to(device), canonical=canonical)
    images = np.ascontiguousarray(seen.permute(0, 2, 3, 1).numpy())  # P, C, h, w -> P, h, w, C
    painter = DefectPainter(inside.numpy(), (1.0 / discriminator.noise_gain[0]).numpy(force=True))
    height, width = view.shape
    turn = not canonical and height == width and has_no_direction(seen)
    parameters = list(discriminator.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=HIGHEST_RATE, weight_decay=WEIGHT_DECAY)
    steps = training.discriminator_steps

    def loss(chosen: Tensor) -> Tensor:
        losses = []
        for place in range(MEMBERS):
            rng = np.random.default_rng([seed, place, *chosen.tolist()])
            losses.append(_member_loss(discriminator, place, *paint(images[chosen.numpy()], painter, rng, turn=turn)))
        return torch.stack(losses).mean()

    return Stage(
        name="discriminator",
        trained=(discriminator,),
        optimiser=optimiser,
        loss=loss,
        rate=lambda step: one_cycle(HIGHEST_RATE, step / steps, RISING_SHARE),
        steps=steps,
        images=len(images),
        batch=int(np.clip(PIXELS_PER_STEP // (height * width), LEAST_BATCH, LARGEST_BATCH)),
        seed=seed + 2,
        largest_gradient=LARGEST_GRADIENT / math.sqrt(MEMBERS),
    )


def _inside(discriminator: Discriminator, regions: Sequence[RegionSettings]) -> Tensor:
    """(h, w) bool: which pixels of the view belong to a region."""
    drawn = torch.zeros(1, 1, *discriminator.canvas)
    for region in regions:
        rows = slice(region.top_px, region.top_px + region.height_px)
        drawn[..., rows, region.left_px : region.left_px + region.width_px] = 1.0
    return discriminator.view.cut(drawn)[0, 0] > 0.5


def paint(
    images: NDArray[np.float32], painter: DefectPainter, rng: np.random.Generator, *, turn: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Copies of (B, h, w, 3) good parts in changing light, most with defects, and the masks (B, h, w)."""
    painted, masks = np.empty_like(images), np.zeros(images.shape[:3], np.bool_)
    for number, (image, copy) in enumerate(zip(images, painted, strict=True)):
        turned = _turned(image, rng) if turn else image
        np.multiply(turned, np.float32(rng.uniform(1 - LIGHT_SPREAD, 1 + LIGHT_SPREAD)), out=copy)
        if rng.random() >= GOOD_SHARE:
            masks[number] |= painter.draw(copy, rng)
            if rng.random() < SECOND_DEFECT_SHARE:
                masks[number] |= painter.draw(copy, rng)
    return painted, masks


def _turned(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    turned = np.rot90(image, int(rng.integers(4)))
    return turned[:, ::-1] if rng.random() < 0.5 else turned


def _member_loss(
    discriminator: Discriminator, place: int, painted: NDArray[np.float32], masks: NDArray[np.bool_]
) -> Tensor:
    """Loss of the member at this place on painted parts (B, h, w, 3) and their masks (B, h, w)."""
    device = device_of(discriminator)
    with half_precision(device):
        compared = discriminator.compared(torch.from_numpy(painted).permute(0, 3, 1, 2).to(device))
        # Channels last: narrow convolutions train faster so on a processor.
        logits = discriminator.members[place](compared.contiguous(memory_format=torch.channels_last))
    return drawn_loss(logits.float(), torch.from_numpy(masks).to(device))


def drawn_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy of logits (B, 1, h / 2, w / 2) by position, a mask's rim left out, and by part."""
    share = functional.avg_pool2d(masks[:, None].float(), LOGIT_STRIDE)
    defect = share >= 0.5
    weight = torch.where(defect, DEFECT_WEIGHT, torch.where(share > 0, 0.0, 1.0))
    by_position = functional.binary_cross_entropy_with_logits(logits, defect.float(), weight=weight)
    defective = masks.flatten(1).any(dim=1).float()
    by_part = functional.binary_cross_entropy_with_logits(logits.amax(dim=(1, 2, 3)), defective)
    return PIXEL_WEIGHT * by_position + PART_WEIGHT * by_part
