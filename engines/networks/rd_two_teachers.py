"""Family rd_two_teachers: reverse distillation from two teachers of different build (Appl. Sci. 2023, 13, 3838)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.directions import lengthened
from engines.networks.discriminator import Discriminator
from engines.networks.iaff import Iaff
from engines.networks.mff import Mff
from engines.networks.ms_cam import MsCam
from engines.networks.oce import Oce
from engines.networks.teacher_student import TeacherStudent
from engines.networks.two_branch import StudentDecoder
from engines.settings import ModelSettings, RdTwoTeachersSettings
from engines.teachers import SPECS, Teacher


class TeacherBranch(nn.Module):
    """One teacher's levels to its map: MS-CAM on each of them, then MFF."""

    def __init__(self, widths: Sequence[int], settings: RdTwoTeachersSettings) -> None:
        super().__init__()
        self.attention = nn.ModuleList(
            [MsCam(width, settings.reduction) if settings.ms_cam else nn.Identity() for width in widths]
        )
        self.mff = Mff(widths, settings.width)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, C_k, H / 2^(k-1), W / 2^(k-1)), k = 1..3, to (N, 3 * width, H / 4, W / 4)."""
        return self.mff([attend(level) for attend, level in zip(self.attention, levels, strict=True)])  # type: ignore[no-any-return]


class Embedding(nn.Module):
    """The paper's fusion module MAFFM: all levels of all teachers to one narrow code.

    A branch for each teacher, iAFF (or a plain sum) where there are two, and OCE. A branch gives 3 * width channels and
    the code has 2 * width; the paper's width is 1024.
    """

    def __init__(self, channels: Sequence[Sequence[int]], settings: RdTwoTeachersSettings) -> None:
        super().__init__()
        self.splits = [list(widths) for widths in channels]  # per level, per teacher
        self.branches = nn.ModuleList([TeacherBranch(widths, settings) for widths in zip(*channels, strict=True)])
        fused = 3 * settings.width
        self.fusion = Iaff(fused, settings.reduction) if settings.iaff and len(self.branches) == 2 else None
        self.oce = Oce(fused, 2 * settings.width)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, C_T1,k + C_T2,k, H / 2^(k-1), W / 2^(k-1)), k = 1..3, to the code (N, 2 * width, H / 8, W / 8)."""
        split = [torch.split(level, widths, dim=1) for level, widths in zip(levels, self.splits, strict=True)]
        maps = [branch(own) for branch, own in zip(self.branches, zip(*split, strict=True), strict=True)]
        fused = self.fusion(*maps) if self.fusion is not None else torch.stack(maps).sum(dim=0)
        return self.oce(fused)  # type: ignore[no-any-return]


class RdTwoTeachers(TeacherStudent):
    """The student decodes the teachers' levels from a code that is made of these levels themselves.

    What it learns to give are the teachers' levels themselves, side by side ("concatenated features", Fig. 1) and each
    teacher's brought to one length (calibration.targets.teacher_scales), not the attended ones: MS-CAM works on what
    the code is made of, else it could learn to make its own targets easy.
    The paper compares directions only (Eq. 1). `score: calibrated` needs residuals as well, so an imitation has the
    student's direction and its target's length; the loss is the same with or without it.
    """

    def __init__(
        self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None = None
    ) -> None:
        super().__init__(model, teachers, discriminator)
        settings = model.rd_two_teachers
        self.embedding = Embedding(self.channels, settings)
        rectified = all(SPECS[teacher.name].family != "lite" for teacher in teachers)  # their levels end in a ReLU
        self.student = StudentDecoder(
            2 * settings.width,
            settings.width,
            self.totals,
            two_branch=settings.student == "two_branch",
            signed=model.score == "calibrated" or not rectified,
        )

    def decode(self, targets: Sequence[Tensor]) -> list[Tensor]:
        """The student's levels, shaped as `targets`, their lengths as they come."""
        return self.student(self.embedding(targets))  # type: ignore[no-any-return]

    def imitate(self, planes: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
        """The student's levels for teacher features `targets`; the planes they come from are not looked at."""
        return [lengthened(given, target) for given, target in zip(self.decode(targets), targets, strict=True)]

    def students(self) -> tuple[nn.Module, ...]:
        """Fusion module and student are trained together."""
        return self.embedding, self.student
