"""SCSAtt, the attention in the bottleneck of rd_feature_mask: SCConv, a 1x1 convolution, SimAM (CJIF 2024, 3.4)."""

from __future__ import annotations

from torch import Tensor, nn

from engines.networks.blocks import conv_bn
from engines.networks.scconv import ScConv
from engines.networks.simam import SimAm


class ScsAtt(nn.Module):
    """SCConv gathers the neighbourhood in place of a 3x3 convolution, the 1x1 convolution mixes channels, SimAM weighs.

    Batch norm and ReLU follow both convolutions, as in the residual blocks that Li et al. put SCConv into. Without
    `scconv` an ordinary 3x3 convolution stands there; without `simam` nothing is weighed (table 6).
    """

    def __init__(self, channels: int, *, scconv: bool, simam: bool) -> None:
        super().__init__()
        gather = nn.Sequential(ScConv(channels), nn.BatchNorm2d(channels)) if scconv else conv_bn(channels, channels)
        self.gather = nn.Sequential(gather, nn.ReLU(inplace=True))
        self.mix = nn.Sequential(conv_bn(channels, channels, kernel=1), nn.ReLU(inplace=True))
        self.weigh = SimAm() if simam else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> same shape."""
        return self.weigh(self.mix(self.gather(features)))  # type: ignore[no-any-return]
