"""SimAM (Yang et al., ICML 2021): attention without parameters; what stands out from its channel is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

REGULARISATION = 1e-4
"""lambda of Eq. 9."""


class SimAm(nn.Module):
    """Eq. 9 and 10: each value times sigmoid(1 / its energy).

    Mean and variance are taken over all positions of the channel, the value itself included, the variance over
    M - 1, as in Yang et al., who show that leaving each value out changes next to nothing.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> same shape. Raises ValueError where a map has a single position."""
        positions = features.shape[2] * features.shape[3]
        if positions < 2:
            raise ValueError("SimAM needs maps of at least two positions")
        squares = (features - features.mean(dim=(2, 3), keepdim=True)).square()
        variance = squares.sum(dim=(2, 3), keepdim=True) / (positions - 1)
        inverse_energy = squares / (4.0 * (variance + REGULARISATION)) + 0.5
        return features * torch.sigmoid(inverse_energy)
