"""MS-CAM, multi-scale channel attention (Dai et al., WACV 2021): how much each channel counts, at each position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.blocks import conv_bn


class MsCam(nn.Module):
    """A local branch on each position and a global one on the average over all, summed; a sigmoid makes weights of it.

    Each branch: 1x1 convolution to `channels` / `reduction`, BN, ReLU, 1x1 convolution back, BN (Eq. 1-3 of Dai et al.;
    r in table 6 of Appl. Sci. 2023, 13, 3838). In training the global branch needs at least two images per batch.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.local_branch = _branch(channels, reduction)
        self.global_branch = _branch(channels, reduction)

    def weights(self, features: Tensor) -> Tensor:
        """M(X): features (N, C, H, W) to weights of the same shape in 0..1."""
        pooled = features.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.local_branch(features) + self.global_branch(pooled))

    def forward(self, features: Tensor) -> Tensor:
        """X * M(X), (N, C, H, W) -> (N, C, H, W)."""
        return features * self.weights(features)


def _branch(channels: int, reduction: int) -> nn.Sequential:
    narrow = max(1, channels // reduction)
    return nn.Sequential(conv_bn(channels, narrow, kernel=1), nn.ReLU(), conv_bn(narrow, channels, kernel=1))
