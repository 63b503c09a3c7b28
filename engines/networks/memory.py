"""What good parts look like, patch by patch and free of place: the distance to the nearest remembered patch.

After PatchCore (Roth et al., CVPR 2022, Eq. 1, 3, 5, 6): a greedy k-centre choice of what is kept, the nearest one's
distance. Deviations: no re-weighting (Eq. 7); of convolutional teachers whitened principal components in place of a
random projection, and the map stays on the grid of the finer level; of DINOv2 the features' directions alone, as in
AnomalyDINO (Damm et al., WACV 2025).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.settings import ModelSettings
from engines.teachers import SPECS

COMPONENTS: Final = 128
"""Whitened principal components that distances are taken in."""
LENGTH: Final = 16.0
"""Of every feature vector where directions are compared: usual squared distances are tens then, as whitened ones."""
LEAST_SQUARE: Final = 1.0
"""Below a squared distance, where usual ones are tens or hundreds: what is left of it is rounding, which the root would
blow up, differently on each machine."""


class Memory(nn.Module, ABC):
    """Teacher features of some levels, (N, C_k, H_k, W_k) each, to the distance to the nearest patch, (N, 1, h, w).

    (h, w) is the size of the finest level. Buffer `patches` (M, D): the remembered ones, none until it is given them.
    """

    def __init__(self, components: int) -> None:
        """components: D."""
        super().__init__()
        self.register_buffer("patches", torch.zeros(0, components))
        self.patches: Tensor

    @property
    def filled(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self.patches) > 0

    @abstractmethod
    def components(self, levels: Sequence[Tensor]) -> Tensor:
        """The patches of parts, (N, D, h, w)."""

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Distances, float32, in the unit of the components."""
        return self.distances(self.components(levels))

    def distances(self, at: Tensor) -> Tensor:
        """The same for components (N, D, h, w)."""
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


class WhitenedMemory(Memory):
    """A memory of whitened components: a distance of 1 is one deviation of one of them over good parts.

    Buffers: `projection_k` (D, C_k) and `shift` (D,) bring features to D components. Zeros until `describe`.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        """channels: C_k of all teachers together, finer level first."""
        components = min(COMPONENTS, sum(channels))
        super().__init__(components)
        for k, count in enumerate(channels):
            self.register_buffer(f"projection_{k}", torch.zeros(components, count))
        self.register_buffer("shift", torch.zeros(components))
        self.channels = tuple(channels)
        self.shift: Tensor

    def describe(self, projection: Tensor, shift: Tensor) -> None:
        """From now on a patch with features f (C,), levels side by side, is projection (D, C) @ f + shift (D,)."""
        for k, part in enumerate(torch.split(projection, list(self.channels), dim=1)):
            self.get_buffer(f"projection_{k}").copy_(part)
        self.shift.copy_(shift)

    def components(self, levels: Sequence[Tensor]) -> Tensor:
        """The patches of parts, (N, D, h, w): means over 3x3 cells, levels on the finer grid, whitened.

        Averaging, resizing and projecting are linear and act on different axes, so that each level is projected where
        it is smallest; the order makes no difference but rounding.
        """
        total: Tensor | None = None
        for k, level in enumerate(levels):
            projected = functional.conv2d(level, self.get_buffer(f"projection_{k}")[:, :, None, None])
            projected = functional.avg_pool2d(projected, 3, stride=1, padding=1)
            if total is None:
                total = projected
            else:
                size = total.shape[2:]
                total = total + functional.interpolate(projected, size=size, mode="bilinear", align_corners=False)
        if total is None:
            raise ValueError("a memory needs at least one level")
        return total + self.shift[:, None, None]


class DirectionMemory(Memory):
    """A memory of one level's directions: the distance is LENGTH * sqrt(2 - 2 cos) to the patch of the highest cosine.

    No means over neighbours: features of a vision transformer have seen the whole part, and made defects drown in such
    means (docs/weights.md). Nothing is fitted to good parts.
    """

    def components(self, levels: Sequence[Tensor]) -> Tensor:
        """The patches of parts, (N, D, h, w), each of the same LENGTH."""
        (level,) = levels
        return level * (LENGTH * level.square().sum(dim=1, keepdim=True).clamp_min(1e-12).rsqrt())


def new_memory(model: ModelSettings, channels: Sequence[int]) -> Memory | None:
    """An empty memory of levels with so many channels, or None where the settings want none."""
    if not model.memory_patches:
        return None
    if SPECS[model.teachers[0]].directions:
        return DirectionMemory(sum(channels))
    return WhitenedMemory(channels)
