"""The text of the Patch_GMSD kernels, run on the CPU, against the float64 reference. What a GPU does is not tested."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from host_kernel import ORDERS, HostKernels, Order
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kernel_cases import TOLERANCE, kernel_case
from patch_values import CANVAS, regions

from engines.kernels import Combine
from engines.settings import CanvasSettings, PatchGmsdSettings, RegionSettings
from inspectd.config import load_station

STATIONS = Path(__file__).parents[3] / "stations"
PATCHED = [
    path.stem
    for path in sorted(STATIONS.glob("*.yaml"))
    if any(region.patches for region in load_station(str(path)).regions)
]
WHOLE = RegionSettings(name="whole", top_px=0, left_px=0, height_px=128, width_px=128, patches=((1, 1),))
SMALL = CanvasSettings(height_px=32, width_px=32)


def quarter(name: str, top: int, left: int) -> RegionSettings:
    """A quarter of the small canvas at two scales."""
    return RegionSettings(name=name, top_px=top, left_px=left, height_px=16, width_px=16, patches=((2, 2), (1, 1)))


QUARTERS = (quarter("a", 0, 0), quarter("b", 16, 16))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("station", PATCHED)
def test_each_station_scores_as_the_reference(host_kernels: HostKernels, station: str, order: Order) -> None:
    """With the regions and patches of each station that ships, in any order of threads."""
    settings = load_station(str(STATIONS / f"{station}.yaml"))
    case = kernel_case(settings.canvas, settings.regions, settings.model.patch_gmsd, parts=2)
    np.testing.assert_allclose(case.scores(host_kernels, order), case.expected(), rtol=0, atol=TOLERANCE)


@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    areas=st.lists(regions(), min_size=1, max_size=4).filter(lambda areas: any(area.patches for area in areas)),
    options=st.builds(
        PatchGmsdSettings,
        neighbours=st.booleans(),
        neighbours_from=st.sampled_from(["image", "reconstruction"]),
        measure=st.sampled_from(["deviation", "mean"]),
    ),
    combine=st.sampled_from(["add", "multiply"]),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 10**6),
)
def test_any_geometry_scores_as_the_reference(
    host_kernels: HostKernels,
    *,
    areas: list[RegionSettings],
    options: PatchGmsdSettings,
    combine: Combine,
    order: Order,
    seed: int,
) -> None:
    """Random regions, scales and options, regions without patches among them, in any order of threads."""
    case = kernel_case(CANVAS, areas, options, combine=combine, seed=seed)
    np.testing.assert_allclose(case.scores(host_kernels, order, seed), case.expected(), rtol=0, atol=TOLERANCE)


def test_patches_too_large_for_shared_memory_score_as_the_reference(host_kernels: HostKernels) -> None:
    """They use the workspace, each pair of each part its own piece of it, and all of it; small ones still do not."""
    halves = RegionSettings(name="halves", top_px=0, left_px=0, height_px=128, width_px=128, patches=((8, 8), (1, 2)))
    case = kernel_case(CanvasSettings(), (WHOLE, halves), parts=2)
    plan, buffers = case.plan(), case.buffers()
    scores = host_kernels.run(plan.launches(2), buffers)
    assert plan.workspace_bytes > 0
    assert np.isfinite(buffers["workspace"]).all(), "a piece of the workspace was not written"
    np.testing.assert_allclose(scores, case.expected(), rtol=0, atol=TOLERANCE)


def test_every_order_and_run_gives_the_same_bits(host_kernels: HostKernels) -> None:
    """Neither the order of the threads nor a second run changes a bit of the scores."""
    case = kernel_case(SMALL, QUARTERS)
    first = case.scores(host_kernels)
    for order in ORDERS:
        for seed in range(3):
            np.testing.assert_array_equal(case.scores(host_kernels, order, seed), first)


def test_a_part_scores_alike_alone_and_in_company(host_kernels: HostKernels) -> None:
    """Each part of a batch has the bits that it has alone, and a batch that is not full leaves the rest untouched."""
    case = kernel_case(SMALL, QUARTERS, parts=3)
    together = case.scores(host_kernels)
    buffers = case.buffers()
    some = host_kernels.run(case.plan().launches(2), buffers)
    np.testing.assert_array_equal(some[:2], together[:2])
    assert np.isnan(some[2]).all()
    for index in range(3):
        alone = dataclasses.replace(
            case,
            part=case.part[index : index + 1],
            reconstruction=case.reconstruction[index : index + 1],
            feature_scores=case.feature_scores[index : index + 1],
        )
        np.testing.assert_array_equal(alone.scores(host_kernels)[0], together[index])


@pytest.mark.parametrize("warps", [1, 3, 16])
def test_any_number_of_warps_scores_alike(host_kernels: HostKernels, warps: int) -> None:
    """Blocks of one to sixteen warps, more than there are regions or pixels to share among them too."""
    case = kernel_case(SMALL, QUARTERS)
    launches = [dataclasses.replace(launch, block=(32 * warps, 1, 1)) for launch in case.plan().launches(1)]
    launches[1] = dataclasses.replace(launches[1], shared_bytes=4 * warps)
    scores = host_kernels.run(launches, case.buffers())
    np.testing.assert_allclose(scores, case.expected(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("where", [(0, 0), (5, 9), (15, 15)])
@pytest.mark.parametrize("source", ["reconstruction", "feature_scores"])
def test_what_is_not_a_number_reaches_the_part_score(
    host_kernels: HostKernels, source: str, where: tuple[int, int]
) -> None:
    """A fault of the network in one pixel or feature score spoils its region's score and the part score, no other's."""
    case = kernel_case(SMALL, QUARTERS)
    place = (0, *where) if source == "reconstruction" else (0, 0)
    getattr(case, source)[place] = np.nan
    scores = case.scores(host_kernels)[0]
    assert np.isnan(scores[:2]).all()
    np.testing.assert_allclose(scores[2], case.expected()[0, 2], rtol=0, atol=TOLERANCE)


def test_alike_pictures_have_no_distance(host_kernels: HostKernels) -> None:
    """A part that is its own reconstruction, both black, has Patch_GMSD 0: region scores are the feature scores."""
    case = kernel_case(SMALL, QUARTERS)
    case.part[:] = 0
    case.reconstruction[:] = 0
    np.testing.assert_array_equal(case.scores(host_kernels)[0, 1:], case.feature_scores[0])


def test_the_shim_refuses_what_a_driver_refuses(host_kernels: HostKernels) -> None:
    """A wrong number of arguments, a block that is no whole number of warps, an unknown kernel."""
    launch = kernel_case(SMALL, QUARTERS).plan().launches(1)[0]
    with pytest.raises(RuntimeError, match="takes 6 arguments"):
        host_kernels.launch(launch, [0])
    with pytest.raises(RuntimeError, match="whole warps"):
        host_kernels.launch(dataclasses.replace(launch, block=(31, 1, 1)), [0] * 6)
    unknown = dataclasses.replace(launch, kernel=dataclasses.replace(launch.kernel, name="patch_gsmd"))
    with pytest.raises(RuntimeError, match="no such kernel"):
        host_kernels.launch(unknown, [0] * 6)
