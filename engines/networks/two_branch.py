"""The student of rd_two_teachers: from a code back to the teachers' levels, by blocks unlike a teacher's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from engines.networks.blocks import conv_bn


class BasicUpBlock(nn.Module):
    """The basic block of Fig. 2b (Appl. Sci. 2023, 13, 3838): two ways to twice the side, added, then ReLU.

    One is a 4x4 deconvolution and BN; the other, left out unless `two_branch`, a 3x3 convolution, BN, ReLU and a 4x4
    deconvolution.
    """

    def __init__(self, inputs: int, outputs: int, two_branch: bool) -> None:
        super().__init__()
        self.direct = nn.Sequential(_deconvolution(inputs, outputs, bias=False), nn.BatchNorm2d(outputs))
        self.convolved = (
            nn.Sequential(conv_bn(inputs, outputs), nn.ReLU(inplace=True), _deconvolution(outputs, outputs, bias=True))
            if two_branch
            else None
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, 2 H, 2 W)."""
        raised = self.direct(features)
        if self.convolved is not None:
            raised = raised + self.convolved(features)
        return self.activation(raised)  # type: ignore[no-any-return]


class StudentDecoder(nn.Module):
    """D3, D2, D1 of Fig. 2a: one block per level, from the coarsest; D3 ends in a 1x1 convolution, BN and ReLU.

    channels: those of the levels to imitate, the finest first. `signed`: they have values below zero, which no ReLU
    reaches, so that each level gets a linear 1x1 convolution at its end (the paper's ResNet features have none).
    Kaiming initialisation, as in the paper.
    """

    def __init__(self, code: int, width: int, channels: Sequence[int], *, two_branch: bool, signed: bool) -> None:
        super().__init__()
        coarsest = channels[-1]
        deepest = nn.Sequential(
            BasicUpBlock(code, width, two_branch), conv_bn(width, coarsest, kernel=1), nn.ReLU(inplace=True)
        )
        falling = list(reversed(channels))
        further = (BasicUpBlock(inputs, outputs, two_branch) for inputs, outputs in itertools.pairwise(falling))
        self.stages = nn.ModuleList([deepest, *further])
        self.heads = nn.ModuleList([nn.Conv2d(total, total, 1) if signed else nn.Identity() for total in falling])
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, code: Tensor) -> list[Tensor]:
        """Map the code (N, code, H, W) to imitations (N, C_k, 2^j H, 2^j W), j = K..1 for k = 1..K."""
        features, imitations = code, []
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            imitations.append(head(features))
        return imitations[::-1]


def _deconvolution(inputs: int, outputs: int, *, bias: bool) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)
