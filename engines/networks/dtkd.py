"""Family dtkd: two frozen teachers, a student that imitates both, ATAA and a decoder (Sensors 2023, 23, 9281)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from engines.networks.ataa import Ataa
from engines.networks.decoder import Decoder
from engines.networks.discriminator import Discriminator
from engines.networks.outputs import NetworkOutputs
from engines.networks.student import Student
from engines.networks.teacher_student import TeacherStudent
from engines.preprocess import normalise, to_grey
from engines.settings import ModelSettings
from engines.teachers import SPECS, Teacher


class DtkdNetwork(TeacherStudent):
    """The student that imitates all teachers at once, ATAA and the decoder."""

    def __init__(
        self, model: ModelSettings, teachers: Sequence[Teacher], discriminator: Discriminator | None = None
    ) -> None:
        super().__init__(model, teachers, discriminator)
        family = SPECS[teachers[0].name].family
        self.student = Student(family, self.totals)
        self.attention = Ataa() if model.attention else None
        self.decoder = Decoder(family, self.totals[-1], 2 ** (len(self.totals) + 1)) if model.decoder else None

    def imitate(self, planes: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
        """The student's levels for planes (N, 3, H, W) of 0..255; `targets` are not looked at."""
        return self.student(normalise(planes, self.normalisations[0]))  # type: ignore[no-any-return]

    def students(self) -> tuple[nn.Module, ...]:
        """Student and ATAA; the decoder has a stage of its own."""
        return (self.student,) if self.attention is None else (self.student, self.attention)

    def attend(self, planes: Tensor) -> Tensor | None:
        """M_AT of Eq. 7 (logits), or None without attention."""
        return None if self.attention is None else self.attention(normalise(planes, self.normalisations[0]))

    def forward(self, part: Tensor) -> NetworkOutputs:
        """Run part images (N, H, W, 3) uint8 RGB through all networks."""
        outputs = super().forward(part)
        reconstruction = None if self.decoder is None else to_grey(self.decoder(outputs.imitations[-1]) * 255.0)
        return outputs._replace(attention=self.attend(outputs.planes), reconstruction=reconstruction)


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
