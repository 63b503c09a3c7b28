"""The plan of the Patch_GMSD kernels: buffers, launches, what it refuses, and the count of bytes and operations."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import kernel_case

from engines.kernels import PatchGmsdPlan
from engines.kernels.cost import GREY_OPERATIONS, SPREAD_OPERATIONS, UNLIKE_OPERATIONS, stage_cost
from engines.kernels.plan import MOST_SHARED_BYTES, MOST_THREADS
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings

CANVAS = CanvasSettings(height_px=128, width_px=128)
ALONE = PatchGmsdSettings(neighbours=False)


def region(name: str, height: int, width: int, *patches: tuple[int, int]) -> RegionSettings:
    """A region at the canvas' corner."""
    return RegionSettings(name=name, top_px=0, left_px=0, height_px=height, width_px=width, patches=patches)


def plan(*regions: RegionSettings, options: PatchGmsdSettings = ALONE, parts: int = 1) -> PatchGmsdPlan:
    """A plan of these regions, weights one."""
    ones = [1.0] * len(regions)
    return PatchGmsdPlan(CANVAS, regions, options, lambdas=ones, patch_factors=ones, combine="add", most_parts=parts)


def test_each_pair_of_patches_is_compared_once() -> None:
    """Two by two patches: four with their reconstruction and, distance being symmetric, six with each other."""
    square = region("square", 32, 32, (2, 2))
    assert len(plan(square).pairs) == 4
    assert len(plan(square, options=PatchGmsdSettings()).pairs) == 4 + 6
    from_reconstruction = PatchGmsdSettings(neighbours_from="reconstruction")
    assert len(plan(square, options=from_reconstruction).pairs) == 4 + 12


@pytest.mark.parametrize("side", [3, 8, 50, 60, 63, 64, 100, 128])
def test_every_launch_is_one_that_each_gpu_takes(side: int) -> None:
    """At most 48 KiB of shared memory and 512 threads in whole warps, for patches of any size."""
    for launch in plan(region("any", side, side, (1, 1)), parts=3).launches(3):
        assert 0 < launch.shared_bytes <= MOST_SHARED_BYTES
        assert launch.block[0] % 32 == 0
        assert 32 <= launch.block[0] <= MOST_THREADS
        assert launch.grid[1] == 3


def test_only_patches_that_do_not_fit_use_the_workspace() -> None:
    """Its size is that of their levels, for each part of the largest batch."""
    small, large = region("small", 32, 32, (2, 2)), region("large", 128, 128, (1, 1))
    assert plan(small).workspace_bytes == 0
    floats = plan(large).pairs[0].floats
    assert plan(small, large, parts=4).workspace_bytes == 4 * 4 * floats


def test_patches_of_64_pixels_a_side_with_all_levels_fit_into_shared_memory() -> None:
    """A common size, and the largest square one that fits."""
    assert plan(region("fits", 64, 64, (1, 1))).workspace_bytes == 0
    assert plan(region("does-not", 65, 65, (1, 1))).workspace_bytes > 0


def test_buffers_hold_what_the_largest_batch_writes() -> None:
    """One float per pair and part, and one score per region and part beside the part score."""
    case = kernel_case(CANVAS, [region("a", 32, 32, (2, 2)), region("b", 16, 16)], ALONE, parts=2)
    assert case.plan().distances_bytes == 2 * 4 * 4
    assert case.plan().scores_bytes == 2 * (1 + 2) * 4
    assert {name: buffer.nbytes for name, buffer in case.buffers().items() if name in {"distances", "scores"}} == {
        "distances": case.plan().distances_bytes,
        "scores": case.plan().scores_bytes,
    }


def test_tables_cannot_be_changed() -> None:
    """They may be copied to the device at any time."""
    made = plan(region("square", 32, 32, (2, 2)))
    for array in (made.tables, made.constants):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert made.tables.dtype == np.int32
    assert made.constants.dtype == np.float32


def test_weights_that_match_no_region_are_refused() -> None:
    """As many lambdas and patch factors as regions."""
    square = region("square", 32, 32, (2, 2))
    with pytest.raises(ValueError, match="1 regions, 2 lambdas, 1 patch factors"):
        PatchGmsdPlan(CANVAS, [square], ALONE, lambdas=[1, 1], patch_factors=[1], combine="add")


def test_a_station_without_patches_is_refused() -> None:
    """There would be nothing to launch."""
    with pytest.raises(ValueError, match="no region has patches"):
        plan(region("plain", 32, 32))


@pytest.mark.parametrize("parts", [0, 3])
def test_a_batch_that_was_not_planned_for_is_refused(parts: int) -> None:
    """Its scores would be written beyond the buffers."""
    with pytest.raises(ValueError, match="planned for 1 to 2 parts"):
        plan(region("square", 32, 32, (2, 2)), parts=2).launches(parts)


def test_bytes_and_operations_are_those_counted_by_hand() -> None:
    """One patch of 3x3 pixels, one level: nine pixels of image and reconstruction, read once."""
    made = plan(region("tiny", 3, 3, (1, 1)))
    cost = stage_cost(made)
    overhead = made.tables.nbytes + made.constants.nbytes + 4 + 4 + 8  # feature score, distance, two scores
    assert cost.pairs == 1
    assert cost.operations == 9 * (GREY_OPERATIONS + UNLIKE_OPERATIONS + SPREAD_OPERATIONS)
    assert cost.memory_bytes == 9 * (3 + 4) + overhead
    assert cost.cache_bytes == cost.memory_bytes + 4 * 3  # the sum's patch, its choice, its distance


def test_neighbours_cost_operations_and_cache_traffic_but_no_memory_traffic() -> None:
    """All of a region's pixels are read anyway, and the tables alone grow."""
    square = region("square", 64, 64, (4, 4))
    alone, all_pairs = plan(square), plan(square, options=PatchGmsdSettings())
    tables = all_pairs.tables.nbytes - alone.tables.nbytes
    distances = all_pairs.distances_bytes - alone.distances_bytes
    assert stage_cost(all_pairs).operations > 3 * stage_cost(alone).operations
    assert stage_cost(all_pairs).memory_bytes == stage_cost(alone).memory_bytes + tables + distances
    assert stage_cost(all_pairs).cache_bytes > 3 * stage_cost(alone).cache_bytes - tables
