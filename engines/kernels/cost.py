"""How many bytes and operations the Patch_GMSD kernels take per part, counted from the plan; read by benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from engines.kernels.plan import Pair, PatchGmsdPlan
from engines.patch_gmsd import pyramid

GREY_OPERATIONS: Final = 5
"""Per pixel of an image: three products, two sums."""
POOL_OPERATIONS: Final = 6
"""Per pooled pixel and image: three sums, three products."""
UNLIKE_OPERATIONS: Final = 37
"""Per pixel and level: 16 for either gradient (Prewitt, squares, root), 5 for 1 - GMS."""
BLEND_OPERATIONS: Final = 12
"""Per pixel and level above the first: two shares, three interpolations, one sum."""
SPREAD_OPERATIONS: Final = 8
"""Per pixel: the mean over the levels, and one step of Welford's method."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one part takes.

    operations: float32, each sum, product, quotient and root one; integer arithmetic is not counted. memory_bytes: what
    must come from and go to the GPU's memory at least: each pixel of the patches, the tables, the results. cache_bytes:
    what the blocks ask of the caches, since each pair loads both of its patches. pairs: blocks of the first kernel.
    """

    pairs: int
    operations: int
    memory_bytes: int
    cache_bytes: int


def stage_cost(plan: PatchGmsdPlan) -> StageCost:
    """Count one part of `plan`."""
    image = np.zeros((plan.canvas.height_px, plan.canvas.width_px), dtype=np.bool_)
    reconstruction = np.zeros_like(image)
    operations, pixel_bytes = 0, 0
    for pair in plan.pairs:
        image[_patch(pair.first_top, pair.first_left, pair)] = True
        seconds = reconstruction if pair.second_is_reconstruction else image
        seconds[_patch(pair.second_top, pair.second_left, pair)] = True
        pixels = pair.height * pair.width
        pixel_bytes += pixels * (3 + (4 if pair.second_is_reconstruction else 3))
        operations += pixels * GREY_OPERATIONS * (1 if pair.second_is_reconstruction else 2)
        operations += _pair_operations(pair.height, pair.width)
    results = 4 * len(plan.pairs) + 4 * (1 + len(plan.regions))
    constants = plan.tables.nbytes + plan.constants.nbytes
    features = 4 * len(plan.regions)
    memory = 3 * int(image.sum()) + 4 * int(reconstruction.sum()) + constants + features + results
    return StageCost(
        pairs=len(plan.pairs),
        operations=operations,
        memory_bytes=memory,
        cache_bytes=pixel_bytes + plan.scores_reads * 4 + constants + features + results,
    )


def _patch(top: int, left: int, pair: Pair) -> tuple[slice, slice]:
    """The pixels of one patch of the pair."""
    return slice(top, top + pair.height), slice(left, left + pair.width)


def _pair_operations(height: int, width: int) -> int:
    """Operations on the levels of one pair."""
    first, *others = [rows * columns for rows, columns in pyramid(height, width)]
    pooled = sum(others)
    per_pixel = UNLIKE_OPERATIONS + SPREAD_OPERATIONS + BLEND_OPERATIONS * len(others)
    return first * per_pixel + pooled * (2 * POOL_OPERATIONS + UNLIKE_OPERATIONS)
