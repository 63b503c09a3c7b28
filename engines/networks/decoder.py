"""The decoder of dtkd: the part image again, from the student's last level alone."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = {"lite": (96, 48, 24), "resnet": (256, 128, 64), "vgg": (256, 128, 64)}
"""Channels after each deconvolution but the last, by the family of the teachers; the paper's for VGG."""


class Decoder(nn.Module):
    """One deconvolution (4x4, stride 2), batch norm and ReLU per halving, then three channels and a sigmoid."""

    def __init__(self, family: str, inputs: int, stride: int) -> None:
        super().__init__()
        doublings = stride.bit_length() - 1
        widths = WIDTHS[family]
        chain = [inputs, *widths[: doublings - 1], *([widths[-1]] * (doublings - 1 - len(widths))), 3]
        layers: list[nn.Module] = []
        for index in range(doublings):
            last = index == doublings - 1
            layers.append(nn.ConvTranspose2d(chain[index], chain[index + 1], 4, stride=2, padding=1, bias=last))
            layers += [nn.Sigmoid()] if last else [nn.BatchNorm2d(chain[index + 1]), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, code: Tensor) -> Tensor:
        """Map the student's last level (N, C, H / s, W / s) to a reconstruction (N, 3, H, W) in [0, 1]."""
        return self.layers(code)  # type: ignore[no-any-return]
