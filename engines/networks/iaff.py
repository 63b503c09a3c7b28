"""iAFF, iterative attentional feature fusion (Dai et al., WACV 2021): two maps become one, weighed per channel."""

from __future__ import annotations

from torch import Tensor, nn

from engines.networks.ms_cam import MsCam


class Iaff(nn.Module):
    """Two rounds of attentional fusion, each with an MS-CAM of its own: the first one's result guides the second.

    Z = M(X + Y) * X + (1 - M(X + Y)) * Y (Eq. 4 of Dai et al.), with the first Z in place of X + Y in the second round
    (Eq. 5).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.first = MsCam(channels, reduction)
        self.second = MsCam(channels, reduction)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Two maps (N, C, H, W) to one of the same shape."""
        weights = self.first.weights(one + other)
        weights = self.second.weights(weights * one + (1.0 - weights) * other)
        return weights * one + (1.0 - weights) * other
