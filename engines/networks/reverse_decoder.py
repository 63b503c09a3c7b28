"""The student of reverse distillation (Deng & Li, CVPR 2022): the teacher's stages upside down, from the deepest up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor, nn

from engines.networks.blocks import conv_bn
from engines.settings import TeacherName

DEPTHS: Final[Mapping[str, tuple[int, int, int]]] = {
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "wide_resnet50_2": (3, 4, 6),
}
"""Blocks per level where they are not (2, 2, 2), as in ResNet18; the stages of other families are shallow too."""
NARROWINGS: Final[Mapping[str, int]] = {"resnet50": 4, "wide_resnet50_2": 2}
"""Outputs of a bottleneck block per channel in its middle; teachers without such blocks have basic ones."""


class MirrorBlock(nn.Module):
    """A residual block of ResNet; with `up` its first 3x3 convolution is a 2x2 deconvolution that doubles the side.

    narrowing None: the basic block, two 3x3 convolutions. Else the bottleneck block: 1x1 to outputs / narrowing
    channels, 3x3, 1x1 back.
    """

    def __init__(self, inputs: int, outputs: int, *, up: bool, narrowing: int | None) -> None:
        super().__init__()
        if narrowing is None:
            layers = [_spatial(inputs, outputs, up), nn.ReLU(inplace=True), conv_bn(outputs, outputs)]
        else:
            middle = outputs // narrowing
            layers = [conv_bn(inputs, middle, kernel=1), nn.ReLU(inplace=True), _spatial(middle, middle, up)]
            layers += [nn.ReLU(inplace=True), conv_bn(middle, outputs, kernel=1)]
        self.branch = nn.Sequential(*layers)
        self.shortcut = _spatial(inputs, outputs, up) if up else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W), or (N, outputs, 2 H, 2 W) with `up`."""
        return self.activation(self.branch(features) + self.shortcut(features))  # type: ignore[no-any-return]


class ReverseDecoder(nn.Module):
    """One stage per level, the deepest first, each beginning with a block that doubles the side.

    `widths`: channels of the levels, level one first. Blocks are those of `teacher`, as many and of the same kind.
    """

    def __init__(self, inputs: int, widths: Sequence[int], teacher: TeacherName) -> None:
        super().__init__()
        depths = DEPTHS.get(teacher, (2,) * len(widths))
        narrowing = NARROWINGS.get(teacher)
        self.stages = nn.ModuleList()
        for width, depth in zip(reversed(widths), reversed(depths), strict=True):
            first = MirrorBlock(inputs, width, up=True, narrowing=narrowing)
            rest = [MirrorBlock(width, width, up=False, narrowing=narrowing) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            inputs = width

    def forward(self, code: Tensor) -> list[Tensor]:
        """Map F_B (N, inputs, H, W) to F_D, level one first: (N, widths[k], H * 2^(K-k), W * 2^(K-k)), k = 0..K-1."""
        levels = []
        for stage in self.stages:
            code = stage(code)
            levels.append(code)
        return levels[::-1]


def _spatial(inputs: int, outputs: int, up: bool) -> nn.Sequential:
    if not up:
        return conv_bn(inputs, outputs)
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs))
