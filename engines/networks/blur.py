"""A Gaussian over maps, as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.scoring import gaussian


class Blur(nn.Module):
    """Gaussian over (N, C, H, W), edges mirrored; sigma in cells.

    Channels become images: OpenVINO has no f32 kernel for a grouped convolution inside an engine that runs in bf16.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        taps = torch.from_numpy(gaussian(sigma))
        self.register_buffer("taps", taps, persistent=False)
        self.taps: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        """Same shape."""
        count = self.taps.shape[0]
        height, width = maps.shape[2:]
        images = maps.reshape(-1, 1, height, width)  # N, C, H, W -> N * C, 1, H, W
        padded = functional.pad(images, (count // 2,) * 4, mode="reflect")
        down = functional.conv2d(padded, self.taps.reshape(1, 1, -1, 1))
        across = functional.conv2d(down, self.taps.reshape(1, 1, 1, -1))
        return across.reshape(maps.shape)  # N * C, 1, H, W -> N, C, H, W
