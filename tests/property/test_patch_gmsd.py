"""Patch_GMSD: the graph's module against the float64 reference, and the reference against torch's own operators."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_values import CANVAS, pictures, regions
from torch.nn import functional

from engines.networks.patch_gmsd import PatchGmsd
from engines.patch_gmsd import GMS_C, GRADIENT_EPSILON, cut, msgms, patch_gmsd, pyramid
from engines.settings import PatchGmsdSettings, RegionSettings


@settings(max_examples=40, deadline=None)
@given(
    st.lists(regions(), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["image", "reconstruction"]),
    st.sampled_from(["deviation", "mean"]),
    st.integers(0, 10**6),
)
def test_the_graph_equals_the_reference(
    areas: list[RegionSettings], neighbours: bool, neighbours_from: str, measure: str, seed: int
) -> None:
    """In float32 the module is within 1e-5 of the float64 reference, for any regions, scales, neighbours, measure."""
    options = PatchGmsdSettings(neighbours=neighbours, neighbours_from=neighbours_from, measure=measure)
    image, reconstruction = pictures(seed)
    expected = patch_gmsd(image, reconstruction, areas, options)
    module = PatchGmsd(CANVAS, areas, options)
    got = module(torch.from_numpy(image[None]).float(), torch.from_numpy(reconstruction[None]).float())
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), st.integers(0, 10**6))
def test_the_reference_is_msgms(height: int, width: int, seed: int) -> None:
    """MSGMS equals the formula spelled with torch's convolution, pooling and bilinear interpolation."""
    rng = np.random.default_rng(seed)
    pair = torch.from_numpy(rng.random((2, 1, height, width)))
    prewitt = torch.tensor([[-1.0, 0, 1]] * 3, dtype=torch.float64) / 3
    kernels = torch.stack([prewitt, prewitt.T]).unsqueeze(1)
    expected = torch.zeros(1, 1, height, width, dtype=torch.float64)
    for level in range(len(pyramid(height, width))):
        pair = functional.avg_pool2d(pair, 2) if level else pair
        slopes = functional.conv2d(functional.pad(pair, (1, 1, 1, 1), mode="replicate"), kernels)
        a, b = (slopes.square().sum(dim=1, keepdim=True) + GRADIENT_EPSILON).sqrt()
        gms = (2 * a * b + GMS_C) / (a**2 + b**2 + GMS_C)
        expected += functional.interpolate(gms[None], size=(height, width), mode="bilinear", align_corners=False)
    first, second = np.random.default_rng(seed).random((2, 1, height, width))[:, 0]
    np.testing.assert_allclose(msgms(first, second), expected[0, 0].numpy() / len(pyramid(height, width)), atol=1e-9)


@given(st.integers(0, 50), st.integers(3, 200), st.integers(1, 12))
def test_patches_cover_the_region_and_stay_inside(start: int, length: int, count: int) -> None:
    """Whatever does not divide overlaps: every pixel lies in a patch, none outside the region, all of one size."""
    if length // count < 3:
        return
    size, starts = cut(start, length, count)
    covered = {pixel for first in starts for pixel in range(first, first + size)}
    assert covered == set(range(start, start + length))
    assert len(starts) == count


def test_a_local_defect_raises_its_region_only() -> None:
    """A line that the reconstruction lacks raises the score of the region that it lies in, and no other's."""
    areas = [
        RegionSettings(name=name, top_px=16, left_px=left, height_px=34, width_px=30, patches=((4, 2), (2, 1)))
        for name, left in (("a", 20), ("b", 50))
    ]
    image, reconstruction = pictures(3)
    before = patch_gmsd(image, reconstruction, areas, PatchGmsdSettings())
    image[30:32, 55:75] = 1.0
    after = patch_gmsd(image, reconstruction, areas, PatchGmsdSettings())
    assert after[1] > before[1] * 1.5
    assert after[0] == before[0]
