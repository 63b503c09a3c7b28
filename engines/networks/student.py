"""The student: one small residual network whose level k imitates the level k of all teachers side by side."""

from __future__ import annotations

from torch import Tensor, nn

from engines.networks.blocks import BasicBlock, conv_bn

STEM = {"lite": 16, "resnet": 32, "vgg": 32}
WIDTHS = {"lite": (32, 64, 128, 192), "resnet": (64, 128, 256, 512), "vgg": (64, 128, 256, 512)}
"""Channels of the student's trunk per level, by the family of its teachers."""


class Student(nn.Module):
    """Residual trunk with a 1x1 head per level.

    Level k has C_T1,k + C_T2,k channels (2 C_k in the paper, whose teachers are equally wide): the first part imitates
    teacher 1, the rest teacher 2. The trunk is narrower than the teachers: it learns one product, not ImageNet.
    """

    def __init__(self, family: str, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = WIDTHS[family][: len(channels)]
        self.stem = nn.Sequential(conv_bn(3, STEM[family], stride=2), nn.ReLU(inplace=True))
        inputs = (STEM[family], *widths)
        self.stages = nn.ModuleList([BasicBlock(inputs[k], width, stride=2) for k, width in enumerate(widths)])
        self.heads = nn.ModuleList([nn.Conv2d(w, c, 1) for w, c in zip(widths, channels, strict=True)])

    def forward(self, planes: Tensor) -> list[Tensor]:
        """Map normalised planes (N, 3, H, W) to imitations (N, C_T1,k + C_T2,k, H / 2^(k+1), W / 2^(k+1))."""
        features = self.stem(planes)
        imitations = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            imitations.append(head(features))
        return imitations
