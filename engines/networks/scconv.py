"""SCConv (Li et al., CVPR 2023): a convolution that takes redundancy out of space, then out of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUPS = 4
"""Groups of the group norm in SRU; as in Li et al."""
GATE = 0.5
"""Above it a weight counts as informative (Eq. 4)."""
SQUEEZE = 2
"""By how much CRU squeezes each half of its channels; as in Li et al."""
CONVOLUTION_GROUPS = 2
"""Groups of CRU's 3x3 convolution (GWC); as in Li et al."""
MULTIPLE = 2 * max(GROUPS, SQUEEZE * CONVOLUTION_GROUPS)
"""What a number of channels must be divisible by."""


class SpatialReconstruction(nn.Module):
    """SRU, Eq. 2-5: what is informative in one half of the channels is added to what is redundant in the other.

    Of Eq. 4 the paper's text says that weights above the gate become 1 and those below it 0; gated so, no gradient ever
    reaches the group norm. Li et al., whom it cites, set 1 (W_1) and 0 (W_2) above the gate and keep the weight itself
    below it in both; so it is here.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % MULTIPLE:
            raise ValueError(f"SCConv needs a multiple of {MULTIPLE} channels, got {channels}")
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> same shape."""
        importance = self.norm.weight / self.norm.weight.sum()  # Eq. 3
        weights = torch.sigmoid(self.norm(features) * importance.reshape(1, -1, 1, 1))
        above = weights > GATE
        informative = torch.where(above, torch.ones_like(weights), weights) * features
        redundant = torch.where(above, torch.zeros_like(weights), weights) * features
        first, second = informative.chunk(2, dim=1)
        other_first, other_second = redundant.chunk(2, dim=1)
        return torch.cat([first + other_second, second + other_first], dim=1)  # Eq. 5


class ChannelReconstruction(nn.Module):
    """CRU, Eq. 6-8: the upper half of the channels is convolved richly, the lower one cheaply, attention mixes them.

    The channels are split in the middle (alpha = 1/2) and each half is squeezed by a 1x1 convolution first, as in Li et
    al. Eq. 7 is a softmax over the two descriptors of one channel (the code that Li et al. published: over all 2 C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % MULTIPLE:
            raise ValueError(f"SCConv needs a multiple of {MULTIPLE} channels, got {channels}")
        half, narrow = channels // 2, channels // 2 // SQUEEZE
        self.squeeze_upper = nn.Conv2d(half, narrow, 1, bias=False)
        self.squeeze_lower = nn.Conv2d(half, narrow, 1, bias=False)
        self.grouped = nn.Conv2d(narrow, channels, 3, padding=1, groups=CONVOLUTION_GROUPS)
        self.pointwise_upper = nn.Conv2d(narrow, channels, 1, bias=False)
        self.pointwise_lower = nn.Conv2d(narrow, channels - narrow, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> same shape."""
        upper, lower = features.chunk(2, dim=1)
        upper, lower = self.squeeze_upper(upper), self.squeeze_lower(lower)
        rich = self.grouped(upper) + self.pointwise_upper(upper)  # Y_1
        cheap = torch.cat([self.pointwise_lower(lower), lower], dim=1)  # Y_2
        difference = rich.mean(dim=(2, 3), keepdim=True) - cheap.mean(dim=(2, 3), keepdim=True)  # Eq. 6
        share = torch.sigmoid(difference)  # Eq. 7: e^s1 / (e^s1 + e^s2)
        return share * rich + (1.0 - share) * cheap  # type: ignore[no-any-return]  # Eq. 8


class ScConv(nn.Sequential):
    """SRU, then CRU: stands where a 3x3 convolution would; (N, C, H, W) -> same shape, C a multiple of MULTIPLE."""

    def __init__(self, channels: int) -> None:
        super().__init__(SpatialReconstruction(channels), ChannelReconstruction(channels))
