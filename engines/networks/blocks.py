"""Building blocks of the trained networks: student, ATAA and decoder are made of these."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm; (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """What a residual block adds to its branch: its input, brought to the branch's shape where that differs.

    It averages before its 1x1 convolution, so that no pixel is skipped. (A strided 1x1 convolution of three
    channels_last channels also crashes the backward pass of torch 2.14 on AVX-512.)
    """
    layers: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
    if inputs != outputs:
        layers.append(conv_bn(inputs, outputs, kernel=1))
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 and -34: two 3x3 convolutions and a `shortcut`, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_bn(inputs, outputs, stride=stride), nn.ReLU(inplace=True), conv_bn(outputs, outputs)
        )
        self.shortcut = shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.activation(self.branch(features) + self.shortcut(features))  # type: ignore[no-any-return]
