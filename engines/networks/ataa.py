"""ATAA, the abnormal target area attention of dtkd (Eq. 7): where on the part anomalies are to be expected."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blocks import BasicBlock

WIDTHS = (16, 16, 32, 32)


class Ataa(nn.Module):
    """Four residual basic blocks in a row, each brought to one channel, upsampled and averaged (Eq. 7).

    The first two blocks halve the side, so that the mask comes at the size of the first level; the paper leaves the
    strides open.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS)
        self.blocks = nn.ModuleList([BasicBlock(inputs[i], width, stride=2) for i, width in enumerate(WIDTHS)])
        self.to_one = nn.ModuleList([nn.Conv2d(width, 1, 1) for width in WIDTHS])

    def forward(self, planes: Tensor) -> Tensor:
        """Map normalised planes (N, 3, H, W) to logits M_AT (N, H / 4, W / 4)."""
        size = (planes.shape[2] // 4, planes.shape[3] // 4)
        masks = []
        features = planes
        for block, to_one in zip(self.blocks, self.to_one, strict=True):
            features = block(features)
            masks.append(functional.interpolate(to_one(features), size=size, mode="bilinear", align_corners=False))
        return torch.cat(masks, dim=1).mean(dim=1)
