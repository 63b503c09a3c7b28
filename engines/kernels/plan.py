"""One station's Patch_GMSD as the kernels of patch_gmsd.cu read it: tables, buffer sizes, launches. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.patch_gmsd import (
    GMS_C,
    GRADIENT_EPSILON,
    PatchGrid,
    compared_pairs,
    patch_grids,
    pyramid,
    summed_patches,
)
from engines.preprocess import LUMA
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings

Combine = Literal["add", "multiply"]
Argument = Literal[
    "part", "reconstruction", "feature_scores", "tables", "constants", "workspace", "distances", "scores"
]

WARP = 32
MOST_THREADS = 512
"""Per block; the kernels' launch bound."""
SCORES_THREADS = 128
"""Per block of `patch_gmsd_scores`, of which there is one per part."""
MOST_SHARED_BYTES = 48 * 1024
"""Of a block, without asking the driver for more: the same on every GPU. Larger patches use the workspace."""
REDUCTION_FLOATS = 3 * MOST_THREADS // WARP
"""Count, mean and sum of squares of each warp: written over a block's levels when these have been read."""
NOWHERE = -1
"""In the tables: the pair's levels lie in shared memory; the sum has no patch there."""


@dataclass(frozen=True, slots=True)
class KernelAbi:
    """An `extern "C"` kernel of patch_gmsd.cu: its name and its arguments in order, each a device pointer (8 bytes)."""

    name: str
    arguments: tuple[Argument, ...]


ABI = (
    KernelAbi("patch_gmsd_distances", ("part", "reconstruction", "tables", "constants", "workspace", "distances")),
    KernelAbi("patch_gmsd_scores", ("distances", "feature_scores", "tables", "constants", "scores")),
)
"""Both kernels, in the order in which one stream runs them.

For N parts at once, all contiguous: part (N, H, W, 3) uint8 RGB; reconstruction (N, H, W) float32, grey in [0, 1];
feature_scores (N, R) float32; tables, constants: `PatchGmsdPlan`'s, copied once; workspace, distances: scratch of
`workspace_bytes` (0: pass a null pointer) and `distances_bytes`, never read by the host; scores (N, 1 + R) float32:
part score, then region scores. A value that is not a number makes its region's score and the part score not a number.
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: the kernel, its grid and block in blocks and threads (x, y, z), dynamic shared memory in bytes."""

    kernel: KernelAbi
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two patches of one size that Eq. 15 compares; the first is always of the image."""

    first_top: int
    first_left: int
    second_top: int
    second_left: int
    second_is_reconstruction: bool
    height: int
    width: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """The fields as `struct Pair` of patch_gmsd.cu has them, up to the number of pyramid levels (Eq. 16)."""
        return (
            *(self.first_top, self.first_left, self.second_top, self.second_left, int(self.second_is_reconstruction)),
            *(self.height, self.width, len(pyramid(self.height, self.width))),
        )

    @property
    def floats(self) -> int:
        """What the kernel keeps of a pair: both patches at each level, and how unlike they are at all but the first."""
        return 3 * sum(height * width for height, width in pyramid(self.height, self.width)) - self.height * self.width


class PatchGmsdPlan:
    """The tables of one station, and how many bytes and blocks its parts take. Immutable; arrays are read-only.

    tables: int32, the header `StageTables` of patch_gmsd.cu and what it points to. constants: float32, grey weights,
    c, epsilon, then each region's weight. pairs: as the blocks of the first kernel take them. scores_reads: how many
    numbers the second kernel reads per part.
    """

    def __init__(
        self,
        canvas: CanvasSettings,
        regions: Sequence[RegionSettings],
        settings: PatchGmsdSettings,
        *,
        lambdas: Sequence[float],
        patch_factors: Sequence[float],
        combine: Combine,
        most_parts: int = 1,
    ) -> None:
        """Plan for up to `most_parts` parts at once.

        combine: "add" is feature score + patch factor * lambda_r * Patch_GMSD_r (`score: calibrated`), "multiply"
        feature score * patch factor * lambda_r * Patch_GMSD_r (`score: paper`, Eq. 11, patch factors 1). Raises
        ValueError where no region has patches, or weights do not match the regions.
        """
        if not len(regions) == len(lambdas) == len(patch_factors):
            raise ValueError(f"{len(regions)} regions, {len(lambdas)} lambdas, {len(patch_factors)} patch factors")
        if most_parts < 1:
            raise ValueError(f"most_parts must be at least 1, got {most_parts}")
        grids = [(index, grid) for index, region in enumerate(regions) for grid in patch_grids(region)]
        if not grids:
            raise ValueError("no region has patches: there is nothing for Patch_GMSD to compare")
        self.canvas, self.regions, self.most_parts = canvas, tuple(regions), most_parts
        self.pairs, choices = _pairs([grid for _, grid in grids], settings)
        places = _places([pair.floats for pair in self.pairs])
        self._workspace_floats = sum(
            pair.floats for pair, place in zip(self.pairs, places, strict=True) if place != NOWHERE
        )
        self._largest_shared = max(
            (pair.floats for pair, place in zip(self.pairs, places, strict=True) if place == NOWHERE), default=0
        )
        if self._workspace_floats > np.iinfo(np.int32).max:
            raise ValueError(
                f"patches this large and many need {4 * self._workspace_floats:,} bytes; cut regions finer"
            )
        header = [canvas.height_px, canvas.width_px, len(regions), len(self.pairs), self._workspace_floats]
        header += [int(settings.measure == "deviation"), int(combine == "multiply")]
        sums = _sums(len(regions), grids)
        self.tables = _tables(header, self.pairs, places, choices, sums)
        self.scores_reads = sums.size + 2 * choices.shape[1] * int((sums != NOWHERE).sum())
        weights = np.asarray(patch_factors, dtype=np.float32) * np.asarray(lambdas, dtype=np.float32)
        grey = [weight / 255.0 for weight in LUMA]
        self.constants = np.concatenate([np.array([*grey, GMS_C, GRADIENT_EPSILON]), weights]).astype(np.float32)
        for array in (self.tables, self.constants):
            array.setflags(write=False)

    @property
    def workspace_bytes(self) -> int:
        """Scratch for the pairs that do not fit into shared memory; 0 for most stations."""
        return 4 * self.most_parts * self._workspace_floats

    @property
    def distances_bytes(self) -> int:
        """One float32 per pair and part, from the first kernel to the second."""
        return 4 * self.most_parts * len(self.pairs)

    @property
    def scores_bytes(self) -> int:
        """Part score and region scores of each part, float32."""
        return 4 * self.most_parts * (1 + len(self.regions))

    def launches(self, parts: int) -> tuple[Launch, ...]:
        """What to launch, in order, for `parts` parts (1 to most_parts). Raises ValueError for any other number."""
        if not 1 <= parts <= self.most_parts:
            raise ValueError(f"planned for 1 to {self.most_parts} parts at once, got {parts}")
        distances, scores = ABI
        pixels = max(pair.height * pair.width for pair in self.pairs)
        threads = min(-(-pixels // WARP) * WARP, MOST_THREADS)
        shared_bytes = 4 * max(REDUCTION_FLOATS, self._largest_shared)
        return (
            Launch(distances, (len(self.pairs), parts, 1), (threads, 1, 1), shared_bytes),
            Launch(scores, (1, parts, 1), (SCORES_THREADS, 1, 1), 4 * SCORES_THREADS // WARP),
        )


def _pairs(grids: Sequence[PatchGrid], settings: PatchGmsdSettings) -> tuple[tuple[Pair, ...], NDArray[np.int64]]:
    """The pairs of all grids, and per patch the pairs to choose the least of."""
    firsts, seconds, choices = compared_pairs(grids, settings)
    patches = [(grid, top, left) for grid in grids for top in grid.tops for left in grid.lefts]
    pairs = []
    for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
        grid, top, left = patches[first]
        _, other_top, other_left = patches[second % len(patches)]
        is_reconstruction = second >= len(patches)
        pairs.append(Pair(top, left, other_top, other_left, is_reconstruction, grid.height, grid.width))
    return tuple(pairs), choices


def _places(floats: Sequence[int]) -> list[int]:
    """Where in one part's workspace each pair's levels lie, NOWHERE for those that fit into shared memory."""
    places, used = [], 0
    for count in floats:
        if 4 * count <= MOST_SHARED_BYTES:
            places.append(NOWHERE)
        else:
            places.append(used)
            used += count
    return places


def _sums(regions: int, grids: Sequence[tuple[int, PatchGrid]]) -> NDArray[np.int64]:
    """Which patches' scores Eq. 14 adds up: (R, M, J), NOWHERE where a region has fewer patches or scales."""
    first_patch: dict[int, int] = {}
    count = 0
    for _, grid in grids:
        first_patch[id(grid)] = count
        count += len(grid.tops) * len(grid.lefts)
    sums = summed_patches(regions, grids, first_patch, count)
    return np.where(sums == count, NOWHERE, sums)


def _tables(
    header: Sequence[int],
    pairs: Sequence[Pair],
    places: Sequence[int],
    choices: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Header, pairs, choices and sums one after the other; the header ends with their shapes and places."""
    rows = [[*pair.numbers, place] for pair, place in zip(pairs, places, strict=True)]
    blocks = [np.array(rows), choices, sums]
    shapes = [choices.shape[1], sums.shape[1], sums.shape[2]]
    start = len(header) + len(shapes) + len(blocks)
    starts = [start + sum(block.size for block in blocks[:index]) for index in range(len(blocks))]
    return np.concatenate([[*header, *shapes, *starts], *(block.reshape(-1) for block in blocks)]).astype(np.int32)
