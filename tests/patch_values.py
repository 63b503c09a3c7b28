"""Regions and pictures that tests of Patch_GMSD draw from. Not a test."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.settings import CanvasSettings, RegionSettings

CANVAS = CanvasSettings(height_px=64, width_px=96)


@st.composite
def regions(draw: st.DrawFn) -> RegionSettings:
    """A region somewhere on the canvas, cut at none to three scales."""
    height, width = draw(st.integers(12, 40)), draw(st.integers(12, 60))
    grid = st.tuples(st.integers(1, 4), st.integers(1, 4))
    return RegionSettings(
        name=f"r{draw(st.integers(0, 10**9))}",
        top_px=draw(st.integers(0, CANVAS.height_px - height)),
        left_px=draw(st.integers(0, CANVAS.width_px - width)),
        height_px=height,
        width_px=width,
        patches=tuple(draw(st.lists(grid, min_size=0, max_size=3))),
    )


def pictures(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two similar grey pictures in [0, 1] with flat parts, edges and noise."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((CANVAS.height_px, CANVAS.width_px))
    picture[16:50, 20:80] = 0.5
    picture[16:50, 20:36] = 0.95
    noisy = picture + rng.normal(0, 0.03, picture.shape) * (rng.random() < 0.8)
    return np.clip(noisy, 0, 1), np.clip(picture + rng.normal(0, 0.01, picture.shape), 0, 1)
