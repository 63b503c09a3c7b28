"""MFF, multi-scale feature fusion of reverse distillation (Deng & Li, CVPR 2022): three levels on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.blocks import conv_bn

LEVELS = 3


class Mff(nn.Module):
    """3x3 convolutions of stride 2 bring levels one and two to the grid of level three, and each level to `width`.

    BN and ReLU after each convolution. Level one takes two, the first to width / 2 channels; level three takes a 1x1
    convolution, or nothing where it has `width` channels already, as WideResNet50-2 has with the paper's 1024.
    Raises ValueError unless `channels` names three levels.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        if len(channels) != LEVELS:
            raise ValueError(f"MFF joins {LEVELS} levels, got {len(channels)}")
        self.channels = LEVELS * width
        self.paths = nn.ModuleList(
            [
                nn.Sequential(_layer(channels[0], width // 2, 3, 2), _layer(width // 2, width, 3, 2)),
                _layer(channels[1], width, 3, 2),
                nn.Identity() if channels[2] == width else _layer(channels[2], width, 1, 1),
            ]
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, C_k, H / 2^(k - 1), W / 2^(k - 1)), k = 1..3, to (N, 3 * width, H / 4, W / 4)."""
        return torch.cat([path(level) for path, level in zip(self.paths, levels, strict=True)], dim=1)


def _layer(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv_bn(inputs, outputs, kernel, stride), nn.ReLU(inplace=True))
