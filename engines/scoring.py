"""Feature distances -> anomaly map -> scores: the constants that calibration fits, and the formula in NumPy.

The same formula runs inside the fused graph (`engines.networks.tail`). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.settings import RegionSettings

Floats = NDArray[np.float32]
LEVEL_STRIDE = 4
"""Canvas pixels per cell of the anomaly map: the stride of the first level."""


@dataclass(frozen=True, slots=True)
class ScoringConstants:
    """What the score needs beside the network. `lambdas`: one weight per region (Eq. 12), ones without a decoder."""

    lambdas: tuple[float, ...]


def region_masks(height_px: int, width_px: int, regions: Sequence[RegionSettings]) -> NDArray[np.bool_]:
    """Which cells of the anomaly map a region touches: (R, H1, W1)."""
    masks = np.zeros((len(regions), height_px // LEVEL_STRIDE, width_px // LEVEL_STRIDE), dtype=np.bool_)
    for mask, region in zip(masks, regions, strict=True):
        bottom, right = region.top_px + region.height_px, region.left_px + region.width_px
        mask[
            region.top_px // LEVEL_STRIDE : -(-bottom // LEVEL_STRIDE),
            region.left_px // LEVEL_STRIDE : -(-right // LEVEL_STRIDE),
        ] = True
    return masks
