"""Faults planted into the kernels' text: each is caught by the check that is meant for it, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from host_kernel import ORDERS, HostKernels, host_library
from kernel_cases import TOLERANCE, KernelCase, kernel_case
from kernel_faults import (
    DIVERGENT_BARRIER,
    OF_THE_FIRST_PART,
    REMOVED_BARRIERS,
    SHARED_WORKSPACE,
    SWALLOWED_NAN,
    WRONG_VALUES,
    Fault,
)

from engines.settings import CanvasSettings, RegionSettings

CANVAS = CanvasSettings(height_px=32, width_px=64)


def named(fault: Fault) -> str:
    """A fault's name, for the test's."""
    return fault.name


def area(name: str, left_px: int, patches: tuple[tuple[int, int], ...] = ((3, 3), (1, 1))) -> RegionSettings:
    """A region over the whole height, at three by three and one patches."""
    return RegionSettings(name=name, top_px=0, left_px=left_px, height_px=32, width_px=32, patches=patches)


def two_regions(parts: int = 1) -> KernelCase:
    """A case of two regions side by side; in the second, flat patches equal their one neighbour, not the noise."""
    case = kernel_case(CANVAS, (area("a", 0), area("b", 32, ((1, 2), (1, 1)))), parts=parts)
    noise = np.random.default_rng(1).random((parts, CANVAS.height_px, 32), dtype=np.float32)
    case.part[:, :, 32:] = 0
    case.reconstruction[:, :, 32:] = noise
    return case


def faulty(fault: Fault, folder: Path) -> HostKernels:
    """The kernels with the fault."""
    return HostKernels(host_library(folder, fault.plant(folder)))


def is_right(case: KernelCase, kernels: HostKernels) -> bool:
    """Whether the kernels score as the reference."""
    return bool(np.allclose(case.scores(kernels), case.expected(), rtol=0, atol=TOLERANCE))


def test_without_a_fault_all_checks_pass(host_kernels: HostKernels) -> None:
    """The cases of this file are right on the kernels as they are: what fails below fails for its fault."""
    assert is_right(two_regions(parts=2), host_kernels)
    assert np.isnan(spoiled().scores(host_kernels)[0, :2]).all()


@pytest.mark.parametrize("fault", REMOVED_BARRIERS, ids=named)
def test_a_removed_barrier_shows_in_the_order_of_threads(fault: Fault, tmp_path: Path) -> None:
    """Forward, reverse and shuffled threads no longer agree with each other and the reference."""
    kernels, case = faulty(fault, tmp_path), two_regions()
    scores = [case.scores(kernels, order, seed) for order in ORDERS for seed in range(3)]
    assert not np.allclose(np.stack(scores), case.expected(), rtol=0, atol=TOLERANCE)


def test_a_barrier_that_not_all_threads_reach_is_reported(tmp_path: Path) -> None:
    """On a GPU such a block hangs."""
    with pytest.raises(RuntimeError, match="barrier divergence"):
        two_regions().scores(faulty(DIVERGENT_BARRIER, tmp_path))


@pytest.mark.parametrize("fault", WRONG_VALUES, ids=named)
def test_a_wrong_formula_or_table_shows_in_the_scores(fault: Fault, tmp_path: Path) -> None:
    """The reference disagrees."""
    assert not is_right(two_regions(), faulty(fault, tmp_path))


@pytest.mark.parametrize("fault", OF_THE_FIRST_PART, ids=named)
def test_a_second_part_that_scores_as_the_first_shows_in_the_scores(fault: Fault, tmp_path: Path) -> None:
    """A lone part is right all the same: it takes two to see it."""
    kernels = faulty(fault, tmp_path)
    assert is_right(two_regions(parts=1), kernels)
    assert not is_right(two_regions(parts=2), kernels)


def test_parts_that_share_their_workspace_leave_some_of_it_unwritten(tmp_path: Path) -> None:
    """On a GPU, where blocks run at once, they would overwrite each other's."""
    whole = RegionSettings(name="whole", top_px=0, left_px=0, height_px=128, width_px=128, patches=((1, 1),))
    case = kernel_case(CanvasSettings(), (whole,), parts=2)
    buffers = case.buffers()
    faulty(SHARED_WORKSPACE, tmp_path).run(case.plan().launches(2), buffers)
    assert np.isnan(buffers["workspace"]).any()


def spoiled() -> KernelCase:
    """A case of one scale with something that is not a number in the middle patch of one region's reconstruction."""
    case = kernel_case(CANVAS, (area("a", 0, ((3, 3),)), area("b", 32, ((3, 3),))))
    case.reconstruction[0, 16, 16] = np.nan
    return case


@pytest.mark.parametrize("fault", SWALLOWED_NAN, ids=named)
def test_a_swallowed_fault_of_the_network_shows_in_the_part_score(fault: Fault, tmp_path: Path) -> None:
    """The part would get a verdict."""
    assert not np.isnan(spoiled().scores(faulty(fault, tmp_path))[0, :2]).all()
