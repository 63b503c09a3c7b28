"""Family dtkd: two frozen teachers, a student that imitates both, ATAA and a decoder (Sensors 2023, 23, 9281)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.ataa import Ataa
from engines.networks.decoder import Decoder
from engines.networks.discriminator import Discriminator
from engines.networks.student import Student
from engines.preprocess import normalise, to_grey, to_planes
from engines.settings import ModelSettings
from engines.teachers import SPECS, Teacher


class DtkdOutputs(NamedTuple):
    """What the tail scores. Level k of `targets` and `imitations`: (N, C_T1,k + C_T2,k, H_k, W_k)."""

    targets: list[Tensor]
    imitations: list[Tensor]
    attention: Tensor | None  # M_AT, logits (N, H_1, W_1)
    planes: Tensor  # (N, 3, H, W), 0..255
    reconstruction: Tensor | None  # grey (N, H, W) in [0, 1]
    defects: Tensor | None  # the discriminator's logits, (N, 1, H_1, W_1)

    @property
    def grey(self) -> Tensor:
        """Grey values of the part image, (N, H, W) in [0, 1]."""
        return to_grey(self.planes)


class DtkdNetwork(nn.Module):
    """Everything that is trained, and the teachers it is trained on; `discriminator` only for `score: calibrated`."""

    def __init__(
        self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None = None
    ) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.channels = tuple(zip(*(teacher.channels for teacher in teachers), strict=True))  # per level, per teacher
        totals = tuple(sum(widths) for widths in self.channels)
        family = SPECS[teachers[0].name].family
        self.normalisations = tuple(teacher.normalisation for teacher in teachers)
        self.student = Student(family, totals)
        self.attention = Ataa() if model.attention else None
        self.decoder = Decoder(family, totals[-1], 2 ** (len(totals) + 1)) if model.decoder else None
        self.discriminator = discriminator
        for level, total in enumerate(totals):
            self.register_buffer(f"centre_{level}", torch.zeros(1, total, 1, 1))
            self.register_buffer(f"factor_{level}", torch.ones(1, total, 1, 1))

    def targets(self, planes: Tensor) -> list[Tensor]:
        """Teacher features of planes (N, 3, H, W) of 0..255, side by side per level, standardised by `standardise`."""
        features = [
            teacher(normalise(planes, norm)) for teacher, norm in zip(self.teachers, self.normalisations, strict=True)
        ]
        return self._standard([torch.cat(levels, dim=1) for levels in zip(*features, strict=True)])

    def first_targets(self, planes: Tensor) -> list[Tensor]:
        """The part of `targets` that comes from teacher 1."""
        return self._standard(self.teachers[0](normalise(planes, self.normalisations[0])))

    def _standard(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels whose first C channels are those of `targets`, standardised."""
        return [
            (level - self.get_buffer(f"centre_{k}")[:, : level.shape[1]])
            * self.get_buffer(f"factor_{k}")[:, : level.shape[1]]
            for k, level in enumerate(levels)
        ]

    def standardise(self, means: Sequence[Tensor], deviations: Sequence[Tensor]) -> None:
        """From now on give teacher channel c of level k as (f - mean) / deviation; both (C,) per level."""
        for k, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
            self.get_buffer(f"centre_{k}").copy_(mean.reshape(1, -1, 1, 1))
            self.get_buffer(f"factor_{k}").copy_(1.0 / deviation.reshape(1, -1, 1, 1))

    def imitate(self, planes: Tensor) -> list[Tensor]:
        """The student's levels for planes (N, 3, H, W) of 0..255."""
        return self.student(normalise(planes, self.normalisations[0]))  # type: ignore[no-any-return]

    def attend(self, planes: Tensor) -> Tensor | None:
        """M_AT of Eq. 7 (logits), or None without attention."""
        return None if self.attention is None else self.attention(normalise(planes, self.normalisations[0]))

    def forward(self, part: Tensor) -> DtkdOutputs:
        """Run part images (N, H, W, 3) uint8 RGB through all networks."""
        planes = to_planes(part)
        imitations = self.imitate(planes)
        reconstruction = None if self.decoder is None else to_grey(self.decoder(imitations[-1]) * 255.0)
        defects = None if self.discriminator is None else self.discriminator(planes)
        return DtkdOutputs(self.targets(planes), imitations, self.attend(planes), planes, reconstruction, defects)


def distance_map(
    targets: Sequence[Tensor], imitations: Sequence[Tensor], first: Sequence[int], distance: str, teacher: int
) -> Tensor:
    """A_T1 (`teacher` 0, Eq. 3) or A_T2 (1, Eq. 4): distances summed over levels, (N, H_1, W_1).

    `first`: C_T1,k of each level. 'mse' (Eq. 1) is the mean over channels, so that levels of different width weigh the
    same; 'cosine' is Eq. 2.
    """
    size = targets[0].shape[2:]
    total: Tensor | None = None
    for target, imitation, split in zip(targets, imitations, first, strict=True):
        channels = slice(0, split) if teacher == 0 else slice(split, None)
        one, other = target[:, channels], imitation[:, channels]
        if distance == "mse":
            level = (one - other).square().mean(dim=1, keepdim=True)
        else:
            level = 1.0 - functional.cosine_similarity(one, other, dim=1).unsqueeze(1)
        if level.shape[2:] != size:
            level = functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
        total = level if total is None else total + level
    if total is None:
        raise ValueError("a distance map needs at least one level")
    return total[:, 0]


def min_max(mask: Tensor) -> Tensor:
    """n(M): each mask (N, H, W) brought to 0..1 (Eq. 9, 17)."""
    low, high = mask.amin(dim=(1, 2), keepdim=True), mask.amax(dim=(1, 2), keepdim=True)
    return (mask - low) / (high - low + 1e-6)
