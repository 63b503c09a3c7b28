"""OCE, one-class embedding of reverse distillation (Deng & Li, CVPR 2022): the narrow code that the student decodes."""

from __future__ import annotations

from torch import Tensor, nn

from engines.networks.blocks import conv_bn, shortcut

BLOCKS = 3
"""As in the last stage of a ResNet-50."""
EXPANSION = 4
"""Channels of a bottleneck block, over those of its 3x3 convolution."""


class Bottleneck(nn.Module):
    """The residual block of ResNet-50: 1x1, 3x3 and 1x1 convolution and a `shortcut`, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        narrow = max(1, outputs // EXPANSION)
        self.branch = nn.Sequential(
            conv_bn(inputs, narrow, kernel=1),
            nn.ReLU(inplace=True),
            conv_bn(narrow, narrow, stride=stride),
            nn.ReLU(inplace=True),
            conv_bn(narrow, outputs, kernel=1),
        )
        self.shortcut = shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.activation(self.branch(features) + self.shortcut(features))  # type: ignore[no-any-return]


class Oce(nn.Module):
    """A ResNet stage of BLOCKS bottleneck blocks, the first of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Bottleneck(inputs, outputs, stride=2), *(Bottleneck(outputs, outputs) for _ in range(BLOCKS - 1))
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / 2, W / 2), H and W even."""
        return self.blocks(features)  # type: ignore[no-any-return]
