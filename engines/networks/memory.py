"""What good parts look like, patch by patch and free of place: the distance to the nearest remembered patch.

After PatchCore (Roth et al., CVPR 2022, Eq. 1, 3, 5, 6): locally averaged features of two levels (of one grid, where
the teacher is a vision transformer: engines.teachers.TeacherSpec says which), a greedy k-centre choice of what is kept, the nearest one's distance. Deviations: whitened principal components in place of a random
projection, the map stays on the grid of the finer level, no re-weighting (Eq. 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.settings import ModelSettings

COMPONENTS: Final = 128
"""Whitened principal components that distances are taken in."""
LEAST_SQUARE: Final = 1.0
"""Below a squared distance, where usual ones are tens or hundreds: what is left of it is rounding, which the root would
blow up, differently on each machine."""


class Memory(nn.Module):
    """Teacher features of some levels, (N, C_k, H_k, W_k) each, to the distance to the nearest patch, (N, 1, h, w).

    (h, w) is the size of the finer level. Buffers: `projection_k` (D, C_k) and `shift` (D,) bring features to D
    whitened components; `patches` (M, D) are the remembered ones. Empty until they are given their values.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        """channels: C_k of all teachers together, finer level first."""
        super().__init__()
        components = min(COMPONENTS, sum(channels))
        for k, count in enumerate(channels):
            self.register_buffer(f"projection_{k}", torch.zeros(components, count))
        self.register_buffer("shift", torch.zeros(components))
        self.register_buffer("patches", torch.zeros(0, components))
        self.channels = tuple(channels)
        self.shift: Tensor
        self.patches: Tensor

    @property
    def filled(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self.patches) > 0

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

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Distances, float32; 1 is one deviation of a whitened component over good parts."""
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


def new_memory(model: ModelSettings, channels: Sequence[int]) -> Memory | None:
    """An empty memory of levels with so many channels, or None where the settings want none."""
    return Memory(channels) if model.memory_patches else None
