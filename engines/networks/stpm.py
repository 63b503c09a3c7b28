"""Family stpm: one frozen teacher, a student of the same shape that starts from random weights (student-teacher feature
pyramid matching, Wang et al., BMVC 2021; equation numbers are those of the write-up that the project follows).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.discriminator import Discriminator
from engines.networks.outputs import NetworkOutputs
from engines.networks.tail import Scored
from engines.networks.teacher_student import TeacherStudent
from engines.preprocess import normalise
from engines.scoring import region_masks
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import Teacher, untrained_stages


class Student(nn.Module):
    """A backbone like the teacher's, untrained; with `heads` each channel of each level gets a mean and a gain.

    The teacher's own features need no head. Its standardised ones are negative as well, which a level that ends in a
    ReLU cannot be.
    """

    def __init__(self, teacher: Teacher, *, heads: bool) -> None:
        super().__init__()
        self.stages = untrained_stages(teacher.name, len(teacher.channels))
        self.heads = nn.ModuleList([nn.BatchNorm2d(c) if heads else nn.Identity() for c in teacher.channels])

    def forward(self, planes: Tensor) -> list[Tensor]:
        """Map normalised planes (N, 3, H, W) to imitations (N, C_k, H / 2^(k+1), W / 2^(k+1))."""
        features = planes
        levels = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            levels.append(head(features))
        return levels


class StpmNetwork(TeacherStudent):
    """The student sees what the teacher sees. Levels of weight 0 are neither trained nor part of the outputs."""

    def __init__(
        self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None = None
    ) -> None:
        super().__init__(model, teachers, discriminator)
        self.student = Student(teachers[0], heads=model.score == "calibrated")
        self.used = tuple(k for k, weight in enumerate(model.stpm.level_weights) if weight > 0)

    def students(self) -> tuple[nn.Module, ...]:
        """The student."""
        return (self.student,)

    def imitate(self, planes: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
        """All levels of the student for planes (N, 3, H, W) of 0..255."""
        return self.student(normalise(planes, self.normalisations[0]))  # type: ignore[no-any-return]

    def forward(self, part: Tensor) -> NetworkOutputs:
        """Run part images (N, H, W, 3) uint8 RGB through all networks; only the levels that count come out."""
        outputs = super().forward(part)
        return outputs._replace(
            targets=[outputs.targets[k] for k in self.used], imitations=[outputs.imitations[k] for k in self.used]
        )


def level_loss(target: Tensor, imitation: Tensor) -> Tensor:
    """Eq. 1: half the squared distance of the feature vectors brought to length 1, (N, C, H, W) -> (N, 1, H, W).

    Equals 1 - cosine, without the digits that the difference would lose where both agree.
    """
    difference = functional.normalize(target, dim=1) - functional.normalize(imitation, dim=1)
    return 0.5 * difference.square().sum(dim=1, keepdim=True)


class StpmTail(nn.Module):
    """`score: paper`: Eq. 4, the product of the levels' losses, at the size of level one of the pyramid.

    A region's score is the highest cell in it, the part score the highest of these: Eq. 4's maximum, less the padding.
    """

    def __init__(self, canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> None:
        super().__init__()
        masks = torch.from_numpy(region_masks(canvas.height_px, canvas.width_px, regions))
        self.size = tuple(masks.shape[1:])
        self.register_buffer("inside", masks.float().flatten(1), persistent=False)
        self.inside: Tensor

    def forward(self, outputs: NetworkOutputs) -> Scored:
        """Score one batch of network outputs."""
        product: Tensor | None = None
        for target, imitation in zip(outputs.targets, outputs.imitations, strict=True):
            level = level_loss(target, imitation)
            if tuple(level.shape[2:]) != self.size:
                level = functional.interpolate(level, size=self.size, mode="bilinear", align_corners=False)
            product = level if product is None else product * level
        if product is None:
            raise ValueError("stpm needs at least one level of a weight above 0")
        maps = product[:, 0]
        regions = (maps.flatten(1).unsqueeze(1) * self.inside).amax(dim=2)
        return regions.amax(dim=1), regions, maps
