"""Drawn-on defects: where they are, and that the part they are drawn on is left alone."""

from __future__ import annotations

import numpy as np

from calibration.synthetic import with_defects
from engines.settings import RegionSettings

REGIONS = (
    RegionSettings(name="left", top_px=10, left_px=5, height_px=40, width_px=20),
    RegionSettings(name="right", top_px=10, left_px=30, height_px=40, width_px=30),
)
PARTS = np.random.default_rng(0).integers(90, 130, (20, 64, 64, 3)).astype(np.uint8)


def test_every_part_gets_a_defect_inside_a_region() -> None:
    """Each copy differs from its part, only within the regions, and the original keeps its pixels."""
    before = PARTS.copy()
    marked = with_defects(PARTS, REGIONS, seed=3)
    outside = np.ones((64, 64), bool)
    for region in REGIONS:
        outside[region.top_px : region.top_px + region.height_px, region.left_px : region.left_px + region.width_px] = (
            False
        )
    changed = (marked != PARTS).any(axis=3)
    assert changed.any(axis=(1, 2)).all()
    assert not changed[:, outside].any()
    assert np.array_equal(PARTS, before)


def test_the_same_seed_draws_the_same_defects() -> None:
    """A calibration that is repeated checks parity on the same images."""
    assert np.array_equal(with_defects(PARTS, REGIONS, 1), with_defects(PARTS, REGIONS, 1))
    assert not np.array_equal(with_defects(PARTS, REGIONS, 1), with_defects(PARTS, REGIONS, 2))
