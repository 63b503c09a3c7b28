"""Frozen teachers and the memory of what they say of good parts: all that `score: memory` needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.memory import new_memory
from engines.networks.outputs import NetworkOutputs
from engines.preprocess import normalise, to_planes
from engines.settings import ModelSettings
from engines.teachers import SPECS, Teacher


class TeacherNetwork(nn.Module):
    """Teachers and memory. `widths`: per level, the channels of each teacher. `memory`: None for `score: paper`.

    `has_finest`: whether the first level is a map of stride 4, in which surfaces can be compared.
    """

    def __init__(self, model: ModelSettings, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.model = model
        self.teachers = nn.ModuleList(teachers)
        self.widths = tuple(zip(*(teacher.channels for teacher in teachers), strict=True))
        self.normalisations = tuple(teacher.normalisation for teacher in teachers)
        self.memory_levels = SPECS[teachers[0].name].memory_levels
        self.has_finest = SPECS[teachers[0].name].finest
        self.memory = new_memory(model, [sum(self.widths[k]) for k in self.memory_levels])

    def features(self, planes: Tensor, levels: int) -> list[Tensor]:
        """The first levels of all teachers side by side, as they are, for planes (N, 3, H, W) of 0..255."""
        features = [
            teacher(normalise(planes, norm), levels)
            for teacher, norm in zip(self.teachers, self.normalisations, strict=True)
        ]
        return [torch.cat(level, dim=1) for level in zip(*features, strict=True)]

    def unknown(self, levels: Sequence[Tensor]) -> Tensor | None:
        """What the memory says of the teachers' levels; None without one, or while it is empty."""
        if self.memory is None or not self.memory.filled:
            return None
        return self.memory([levels[k] for k in self.memory_levels])  # type: ignore[no-any-return]

    def finest(self, levels: Sequence[Tensor]) -> Tensor | None:
        """The first of the teachers' levels, (N, C_1, H_1, W_1), or None where it is no map."""
        return levels[0] if self.has_finest else None

    def forward(self, part: Tensor) -> NetworkOutputs:
        """Run part images (N, H, W, 3) uint8 RGB through all networks."""
        planes = to_planes(part)
        levels = self.features(planes, self.model.teacher_levels)
        return NetworkOutputs(
            targets=[],
            imitations=[],
            attention=None,
            planes=planes,
            reconstruction=None,
            defects=None,
            unknown=self.unknown(levels),
            finest=self.finest(levels),
        )
