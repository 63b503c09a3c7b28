"""What all families share: frozen teachers whose features a student learns to give for good parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.discriminator import Discriminator
from engines.networks.outputs import NetworkOutputs
from engines.networks.teacher_network import TeacherNetwork
from engines.preprocess import normalise, to_planes
from engines.settings import ModelSettings
from engines.teachers import Teacher


class TeacherStudent(TeacherNetwork, ABC):
    """Teachers, memory, what features are compared in, and the discriminator; a family adds its student.

    channels: per level compared, those of each teacher. `discriminator`: only for `score: calibrated`.
    """

    def __init__(self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None) -> None:
        super().__init__(model, teachers)
        self.channels = self.widths[: model.levels]
        self.totals = tuple(sum(widths) for widths in self.channels)
        self.discriminator = discriminator
        for level, total in enumerate(self.totals):
            self.register_buffer(f"centre_{level}", torch.zeros(1, total, 1, 1))
            self.register_buffer(f"factor_{level}", torch.ones(1, total, 1, 1))

    @abstractmethod
    def imitate(self, planes: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
        """The student's levels, shaped as `targets`, for planes (N, 3, H, W) of 0..255 and their teacher features."""

    @abstractmethod
    def students(self) -> tuple[nn.Module, ...]:
        """What stage one trains."""

    def targets(self, planes: Tensor) -> list[Tensor]:
        """Teacher features of planes (N, 3, H, W) of 0..255, side by side per level, standardised by `standardise`."""
        return self.standardised(self.features(planes, self.model.levels))

    def first_targets(self, planes: Tensor) -> list[Tensor]:
        """The part of `targets` that comes from teacher 1."""
        return self.standardised(self.teachers[0](normalise(planes, self.normalisations[0]), self.model.levels))

    def standardised(self, levels: Sequence[Tensor]) -> list[Tensor]:
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

    def forward(self, part: Tensor) -> NetworkOutputs:
        """Run part images (N, H, W, 3) uint8 RGB through all networks."""
        planes = to_planes(part)
        features = self.features(planes, self.model.teacher_levels)
        targets = self.standardised(features[: self.model.levels])
        return NetworkOutputs(
            targets=targets,
            imitations=self.imitate(planes, targets),
            attention=None,
            planes=planes,
            reconstruction=None,
            defects=None if self.discriminator is None else self.discriminator(planes),
            unknown=self.unknown(features),
        )
