"""What good parts' deep features looked like, place by place: the distance to the nearest of them is one more map.

After PatchCore (Roth et al., CVPR 2022, Eq. 1, 6): a memory of normal patch features, the nearest scores. Deviations:
one level instead of two averaged ones, principal components instead of a random projection, a random choice instead of
a greedy coreset where there are more patches than CAPACITY, no re-weighting (Eq. 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.settings import ModelSettings

COMPONENTS = 64
"""Principal components of the standardised channels that distances are taken in."""
CAPACITY = 65_536
"""Patches that are kept at most: 16 MiB."""
LEAST_SQUARE = 1.0
"""Below a squared distance, where usual ones are tens or hundreds: what is left of it is rounding, which the root would
blow up, differently on each machine."""


class Memory(nn.Module):
    """Teacher features of one level, (N, C, H, W), to the distance to the nearest remembered patch, (N, 1, H, W).

    Buffers: `projection` (D, C) and `shift` (D,) bring features to D components; `patches` (M, D) are the remembered
    ones. Empty until `remember`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        components = min(COMPONENTS, channels)
        self.register_buffer("projection", torch.zeros(components, channels))
        self.register_buffer("shift", torch.zeros(components))
        self.register_buffer("patches", torch.zeros(0, components))
        self.projection: Tensor
        self.shift: Tensor
        self.patches: Tensor

    def remember(self, features: Tensor) -> None:
        """Fit the components to features (M, C) of good parts' patches, and keep these patches."""
        mean = features.double().mean(dim=0)
        deviation = features.double().std(dim=0, correction=0).clamp_min(1e-3)
        standard = (features - mean) / deviation
        _, vectors = torch.linalg.eigh(torch.cov(standard.T, correction=0))
        projection = vectors[:, -len(self.shift) :].T / deviation
        self.projection.copy_(projection)
        self.shift.copy_(-projection @ mean)
        self.patches = functional.linear(features, self.projection, self.shift)

    def forward(self, features: Tensor) -> Tensor:
        """Distances in deviations of a channel over good parts; float32."""
        at = functional.conv2d(features, self.projection[:, :, None, None], self.shift)
        squares = self.patches.square().sum(dim=1)
        further = functional.conv2d(at, -2.0 * self.patches[:, :, None, None], squares)  # |a - b|^2 - |a|^2
        nearest = further.amin(dim=1, keepdim=True) + at.square().sum(dim=1, keepdim=True)
        return nearest.clamp_min(LEAST_SQUARE).sqrt()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """Take as many patches as the file has: their number is the good parts', not the settings'."""
        saved = state_dict.get(f"{prefix}patches")
        if isinstance(saved, Tensor) and saved.ndim == 2 and saved.shape[1] == self.patches.shape[1]:
            self.patches = self.patches.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)


def new_memory(model: ModelSettings, channels: int) -> Memory | None:
    """An empty memory of a level with so many channels, or None where the settings want none."""
    return Memory(channels) if model.remembered_level else None
