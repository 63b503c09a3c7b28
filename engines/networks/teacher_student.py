"""What all families share: frozen teachers whose features a student learns to give for good parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.discriminator import Discriminator
from engines.networks.memory import new_memory
from engines.networks.outputs import NetworkOutputs
from engines.preprocess import normalise, to_planes
from engines.settings import ModelSettings
from engines.teachers import Teacher


class TeacherStudent(nn.Module, ABC):
    """Teachers, what their features are compared in, discriminator and memory; a family adds its student.

    channels: per level compared, those of each teacher. `discriminator`, `memory`: only for `score: calibrated`.
    """

    def __init__(self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None) -> None:
        super().__init__()
        self.model = model
        self.teachers = nn.ModuleList(teachers)
        widths = tuple(zip(*(teacher.channels for teacher in teachers), strict=True))
        self.channels = widths[: model.levels]
        self.totals = tuple(sum(widths) for widths in self.channels)
        self.normalisations = tuple(teacher.normalisation for teacher in teachers)
        self.discriminator = discriminator
        self.memory = new_memory(model, sum(widths[model.remembered_level - 1]))
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
        return self._standard(self._features(planes, self.model.levels))

    def remembered(self, planes: Tensor) -> Tensor:
        """Teacher features of the memory's level, side by side as they are, (N, C, h, w)."""
        return self._features(planes, self.model.remembered_level)[-1]

    def first_targets(self, planes: Tensor) -> list[Tensor]:
        """The part of `targets` that comes from teacher 1."""
        return self._standard(self.teachers[0](normalise(planes, self.normalisations[0]), self.model.levels))

    def _features(self, planes: Tensor, levels: int) -> list[Tensor]:
        """The teachers' first levels, side by side, as they are."""
        features = [
            teacher(normalise(planes, norm), levels)
            for teacher, norm in zip(self.teachers, self.normalisations, strict=True)
        ]
        return [torch.cat(level, dim=1) for level in zip(*features, strict=True)]

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

    def forward(self, part: Tensor) -> NetworkOutputs:
        """Run part images (N, H, W, 3) uint8 RGB through all networks."""
        planes = to_planes(part)
        features = self._features(planes, self.model.teacher_levels)
        targets = self._standard(features[: self.model.levels])
        return NetworkOutputs(
            targets=targets,
            imitations=self.imitate(planes, targets),
            attention=None,
            planes=planes,
            reconstruction=None,
            defects=None if self.discriminator is None else self.discriminator(planes),
            unknown=None if self.memory is None else self.memory(features[self.model.remembered_level - 1]),
        )
