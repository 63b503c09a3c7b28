"""What is usual at each cell, and good parts by the statistics of the others: against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration.cell_statistics import CellStatistics

INSIDE = torch.ones(12, 12, dtype=torch.bool)


def _maps(parts: int) -> torch.Tensor:
    """(P, 2, 12, 12): two components of other levels and deviations."""
    rng = np.random.default_rng(3)
    levels, deviations = np.array([5.0, -2.0]), np.array([1.0, 0.2])
    noise = rng.normal(size=(parts, 2, 12, 12))
    return torch.from_numpy((levels[:, None, None] + deviations[:, None, None] * noise).astype(np.float32))


def test_good_parts_come_to_one_scale() -> None:
    """Each component has mean 0 over good parts, and its worst cell on one is 1 on average."""
    maps = _maps(60)
    statistics = CellStatistics(maps, INSIDE)
    scaled = ((maps - statistics.location) * statistics.gain).numpy()
    assert scaled.mean(axis=(0, 2, 3)) == pytest.approx([0, 0], abs=0.01)
    assert scaled.max(axis=(2, 3)).mean(axis=0) == pytest.approx([1, 1], rel=0.01)


def test_a_part_by_the_others_is_what_it_would_be_without_it() -> None:
    """Location is that of the other parts, and the part is as far from it as a new one would be: further than it seems
    where it is among those it is compared with."""
    maps = _maps(12)
    statistics = CellStatistics(maps, INSIDE)
    own = (maps - statistics.location) * statistics.gain
    others = torch.cat(list(statistics.by_the_others()))
    assert others.shape == maps.shape
    without = CellStatistics(torch.cat([maps[:4], maps[5:]]), INSIDE)
    expected = ((maps[4] - without.location) * without.gain).numpy()
    worst = without.gain.mean() / statistics.gain.mean()  # the unit, a good part's worst cell, moves a little
    assert np.corrcoef(others[4].flatten(), expected.flatten())[0, 1] > 0.999
    assert others[4].numpy() == pytest.approx(expected / float(worst), abs=0.05)
    assert float(others.amax(dim=(2, 3)).mean()) > 1.03 * float(own.amax(dim=(2, 3)).mean())
