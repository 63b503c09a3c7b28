"""How far features and colours are from those of good parts, free of place: what several tails measure."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.blur import Blur
from engines.scoring import LEVEL_STRIDE, SURROUND_SIGMA_PX, TINT_SIGMA_PX, Floats


class Tint(nn.Module):
    """Colours under a Gaussian, one value per cell; minus those under a wider one where `surround` is 1."""

    def __init__(self, surround: float) -> None:
        super().__init__()
        self.narrow = Blur(TINT_SIGMA_PX / LEVEL_STRIDE)
        self.wide = Blur(SURROUND_SIGMA_PX / LEVEL_STRIDE) if surround else None

    def forward(self, planes: Tensor) -> Tensor:
        """Map planes (N, 3, H, W) to (N, 3, H / 4, W / 4), in grey levels."""
        cells = functional.avg_pool2d(planes, LEVEL_STRIDE)
        near = self.narrow(cells)
        return near if self.wide is None else near - self.wide(cells)  # type: ignore[no-any-return]


class Whitening(nn.Module):
    """Mean square of the whitened residual: Mahalanobis distance per channel, 1 on average over good parts."""

    def __init__(self, matrix: Floats, offset: Floats) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(matrix)[:, :, None, None], persistent=False)
        self.register_buffer("offset", torch.from_numpy(offset), persistent=False)
        self.matrix: Tensor
        self.offset: Tensor

    def forward(self, residual: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W)."""
        return functional.conv2d(residual, self.matrix, self.offset).square().mean(dim=1, keepdim=True)
