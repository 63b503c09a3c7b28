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

COMPONENTS: Final = 192
"""Whitened principal components that distances are taken in."""
COARSE: Final = 512
"""Patches that every cell is compared with; a choice by k-centre begins with the ones that are farthest apart."""
REFINED: Final = 8
"""One cell in so many, the farthest ones, is compared with all patches."""
NEVER: Final = -1e9
"""Added to the squared distance of a cell that must not be among the farthest."""
LENGTH: Final = 16.0
"""Of every feature vector where directions are compared: usual squared distances are tens then, as whitened ones."""
LEAST_SQUARE: Final = 1.0
"""Below a squared distance, where usual ones are tens or hundreds: what is left of it is rounding, which the root would
blow up, differently on each machine."""


class Memory(nn.Module, ABC):
    """Teacher features of some levels, (N, C_k, H_k, W_k) each, to the distance to the nearest patch, (N, 1, h, w).

    (h, w) is the size of the finest level. Buffer `patches` (M, D): the remembered ones, none until it is given them,
    those that are farthest apart first. `far_only`: set where a part's highest distances are all that counts.
    """

    def __init__(self, components: int) -> None:
        """components: D."""
        super().__init__()
        self.register_buffer("patches", torch.zeros(0, components))
        self.register_buffer("outside", torch.zeros(1), persistent=False)
        self.patches: Tensor
        self.outside: Tensor
        self.far_only = False

    @property
    def filled(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self.patches) > 0

    @abstractmethod
    def gathered(self, levels: Sequence[Tensor]) -> Tensor:
        """What patches are made of before anything is fitted to good parts, (N, C, h, w)."""

    @abstractmethod
    def fitted(self, gathered: Tensor) -> Tensor:
        """The patches (N, D, h, w) of what was gathered."""

    def components(self, levels: Sequence[Tensor]) -> Tensor:
        """The patches of parts, (N, D, h, w)."""
        return self.fitted(self.gathered(levels))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Distances, float32, in the unit of the components; with `far_only`, exact where they are large."""
        at = self.components(levels)
        if self.far_only and len(self.patches) > 2 * COARSE:
            return self.far_distances(at)
        return self.distances(at)

    def distances(self, at: Tensor) -> Tensor:
        """The same for components (N, D, h, w)."""
        lengths = at.square().sum(dim=1, keepdim=True)
        return (_nearest(at, self.patches) + lengths).clamp_min(LEAST_SQUARE).sqrt()

    def far_distances(self, at: Tensor) -> Tensor:
        """The distances where they are large, for components (N, D, h, w), at a third of the work.

        Every cell is compared with the first COARSE patches, and the farthest cells, one in REFINED, with all. Only
        these can be a part's highest. The others get what the first patches say of them, but no more than the mean of
        those that were compared with all: a mean hardly moves where rounding decides which cells these are.
        """
        lengths = at.square().sum(dim=1, keepdim=True)
        nearest = _nearest(at, self.patches[:COARSE]) + lengths
        far = (nearest + self.outside).flatten(2)
        _, cells = far.topk(far.shape[2] // REFINED, dim=2, sorted=False)  # N, 1, K
        chosen = at.flatten(2).gather(2, cells.expand(-1, at.shape[1], -1))  # N, D, K
        refined = _nearest(chosen[..., None], self.patches)[..., 0] + lengths.flatten(2).gather(2, cells)
        others = torch.minimum(nearest.flatten(2), refined.mean(dim=2, keepdim=True))
        squares = others.scatter(2, cells, refined).view_as(nearest)
        return squares.clamp_min(LEAST_SQUARE).sqrt()

    def look_within(self, inside: Tensor) -> None:
        """Spend no comparison on cells that no region touches; inside: (h, w) bool."""
        self.outside = torch.where(inside, 0.0, NEVER)[None, None]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """Take as many patches and components as the file has: their number is the good parts', not the settings'."""
        for name, own in list(self.named_buffers()):
            saved = state_dict.get(f"{prefix}{name}")
            same_rows = name == "patches" or (isinstance(saved, Tensor) and saved.shape[1:] == own.shape[1:])
            if isinstance(saved, Tensor) and saved.ndim == own.ndim and same_rows:
                self.register_buffer(name, own.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _nearest(at: Tensor, patches: Tensor) -> Tensor:
    """|a - b|^2 - |a|^2 to the nearest of patches (M, D), (N, 1, h, w), for (N, D, h, w)."""
    further = functional.conv2d(at, -2.0 * patches[:, :, None, None], patches.square().sum(dim=1))
    return further.amin(dim=1, keepdim=True)


class WhitenedMemory(Memory):
    """A memory of whitened components: a distance of 1 is one deviation of one of them over good parts.

    Buffers: `projection_k` (D, C_k) and `shift` (D,) bring features to D components. Zeros until `describe`, which may
    leave fewer of them.
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
            self.register_buffer(f"projection_{k}", part.contiguous().clone())
        self.shift = shift.clone()

    def gathered(self, levels: Sequence[Tensor]) -> Tensor:
        """Means over 3x3 cells of all levels side by side, on the finer grid."""
        averaged = [functional.avg_pool2d(level, 3, stride=1, padding=1) for level in levels]
        size = averaged[0].shape[2:]
        finer = [functional.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in averaged[1:]]
        return torch.cat([averaged[0], *finer], dim=1)

    def fitted(self, gathered: Tensor) -> Tensor:
        """Whitened."""
        projection = torch.cat([self.get_buffer(f"projection_{k}") for k in range(len(self.channels))], dim=1)
        return functional.conv2d(gathered, projection[:, :, None, None], self.shift)

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

    def gathered(self, levels: Sequence[Tensor]) -> Tensor:
        """Directions, each of the same LENGTH."""
        (level,) = levels
        return level * (LENGTH * level.square().sum(dim=1, keepdim=True).clamp_min(1e-12).rsqrt())

    def fitted(self, gathered: Tensor) -> Tensor:
        """As they are."""
        return gathered


def new_memory(model: ModelSettings, channels: Sequence[int]) -> Memory | None:
    """An empty memory of levels with so many channels, or None where the settings want none."""
    if not model.memory_patches:
        return None
    if SPECS[model.teachers[0]].directions:
        return DirectionMemory(sum(channels))
    return WhitenedMemory(channels)
