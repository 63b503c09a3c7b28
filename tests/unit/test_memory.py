"""The memory of good parts' patches: nearest distances as NumPy has them, what is kept, and what they raise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from torch.nn import functional

from calibration import remember
from calibration.detection import Asked, rejected
from calibration.fit_memory import _compared, _Trial, fit_memory, in_units, units_of
from calibration.k_centre import KCentre
from calibration.remember import fill_memory
from calibration.surface_statistics import SurfaceStatistics
from calibration.whitening import PER_COMPONENT, WhiteningStatistics
from engines.networks.families import new_network
from engines.networks.fused import FusedEngine
from engines.networks.memory import WhitenedMemory
from engines.networks.memory_tail import Readings, Surface
from engines.networks.outputs import NetworkOutputs
from engines.networks.teacher_network import TeacherNetwork
from engines.scoring import READINGS
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import load_teachers

SIDE = 64
CANVAS = CanvasSettings(height_px=SIDE, width_px=SIDE)
GRID = (SIDE // 8, SIDE // 8)
REGIONS = (
    RegionSettings(name="top", top_px=0, left_px=0, height_px=32, width_px=64),
    RegionSettings(name="bottom", top_px=32, left_px=0, height_px=32, width_px=64),
)
HOW: Any = {"asked": Asked.of(0.01, 0.95, REGIONS), "seed": 0, "progress": lambda *_: None}
ASKED = Asked(0.01, 0.95, ("part",))
MODEL = ModelSettings.model_validate({"score": "memory", "random_teachers": True, "memory_patches": 200})


def images(count: int, seed: int = 7) -> NDArray[np.uint8]:
    """One blocky pattern, (count, 64, 64, 3), its blocks a little lighter or darker from part to part."""
    pattern = np.random.default_rng(99).integers(60, 200, (1, 8, 8, 3))
    coarse = pattern + np.random.default_rng(seed).normal(0, 8, (count, 8, 8, 3))
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).clip(0, 255).astype(np.uint8)


def network() -> TeacherNetwork:
    """Teachers with random weights and an empty memory."""
    return new_network(MODEL, CANVAS, REGIONS, load_teachers(MODEL, CANVAS, 1)).eval()


def fill(one: TeacherNetwork, shown: NDArray[np.uint8], parts: NDArray[np.int64], seed: int = 0) -> NDArray[np.float32]:
    """Fill the memory without a progress bar; the left-out maps."""
    return fill_memory(one, shown, parts, canvas=CANVAS, regions=REGIONS, seed=seed, progress=lambda *_: None).maps


def greedy(patches: NDArray[np.float64], size: int) -> list[int]:
    """K-centre as the books have it, one pass over all patches per choice."""
    chosen, nearest = [0], np.full(len(patches), np.inf)
    while len(chosen) < size:
        nearest = np.minimum(nearest, np.square(patches - patches[chosen[-1]]).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return chosen


def test_the_choice_in_blocks_is_the_greedy_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch for patch, where blocks and candidates are few; a longer choice goes on where a shorter one ended."""
    monkeypatch.setattr("calibration.k_centre.BLOCK", 7)
    monkeypatch.setattr("calibration.k_centre.CANDIDATES", 31)
    monkeypatch.setattr("calibration.k_centre.ROWS", 100)
    patches = np.random.default_rng(0).normal(size=(700, 6))
    expected = greedy(patches, 60)
    grown = KCentre(torch.from_numpy(patches)).grow(20)
    assert grown.chosen == expected[:20]
    assert grown.grow(60).chosen == expected


def test_repetitions_are_chosen_once() -> None:
    """Of many copies of three patches three are kept, whatever is asked for."""
    copies = torch.eye(3).repeat(50, 1)
    assert len(KCentre(copies).grow(100).chosen) == 3


def test_what_is_left_out_is_gone_and_all_else_is_covered_again() -> None:
    """No patch of the mask remains, and every other one is as near to a chosen one as brute force says."""
    patches = torch.from_numpy(np.random.default_rng(1).normal(size=(400, 5))).float()
    gone = torch.arange(400) % 4 == 0
    rest = KCentre(patches).grow(40).without(gone).grow(40)
    kept = patches[~gone]
    assert torch.equal(rest.patches, kept)
    assert len(set(rest.chosen)) == 40
    distances = torch.cdist(kept, kept[rest.chosen]).amin(dim=1)
    torch.testing.assert_close(rest._nearest.sqrt(), distances, atol=2e-3, rtol=1e-3)
    fresh = torch.cdist(kept, kept[KCentre(kept).grow(40).chosen]).amin(dim=1)
    assert float(distances.max()) < 1.3 * float(fresh.max())


def test_a_patch_is_two_levels_averaged_joined_and_projected() -> None:
    """What the memory computes level by level is what the docstring says of all channels at once."""
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 5, 8, 8), torch.randn(2, 7, 4, 4)
    memory = WhitenedMemory([5, 7])
    projection, shift = torch.randn(12, 12), torch.randn(12)
    memory.describe(projection, shift)
    wide = functional.interpolate(functional.avg_pool2d(coarse, 3, 1, 1), (8, 8), mode="bilinear", align_corners=False)
    joined = torch.cat([functional.avg_pool2d(fine, 3, 1, 1), wide], dim=1)
    expected = torch.einsum("dc,nchw->ndhw", projection, joined) + shift[:, None, None]
    torch.testing.assert_close(memory.components([fine, coarse]), expected, rtol=1e-4, atol=1e-4)
    memory.patches = torch.randn(30, 12)
    distances = torch.cdist(expected.flatten(2).transpose(1, 2), memory.patches).amin(dim=2).clamp_min(1)
    torch.testing.assert_close(memory([fine, coarse]).flatten(1), distances, rtol=1e-3, atol=1e-3)


def test_the_farthest_cells_are_compared_with_all_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get what a full search says, the highest of all among them; others no more than the mean of these; and no
    cell that no region touches takes the place of one that counts."""
    torch.manual_seed(0)
    memory = WhitenedMemory([6, 6])
    centres = torch.randn(40, 12) * 5
    memory.describe(torch.eye(12), torch.zeros(12))
    memory.patches = torch.cat([centres, centres.repeat(10, 1) + torch.randn(400, 12)])
    at = centres[torch.randint(40, (3, 16, 16))].permute(0, 3, 1, 2) + torch.randn(3, 12, 16, 16)
    at[:, :, 5, 9] += 9  # one cell of each part is far off
    brute = torch.cdist(at.flatten(2).transpose(1, 2), memory.patches).amin(dim=2).clamp_min(1).view(3, 1, 16, 16)
    monkeypatch.setattr("engines.networks.memory.COARSE", 40)
    found = memory.far_distances(at)
    assert memory.far_only is False
    torch.testing.assert_close(memory.distances(at), brute, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.flatten(1).amax(dim=1), brute.flatten(1).amax(dim=1), rtol=1e-3, atol=1e-3)
    exact = (found - brute).abs().flatten(1) < 1e-3
    assert bool((exact.sum(dim=1) >= 16 * 16 // 8).all())
    assert float(exact.float().mean()) < 0.9, "cells must have been spared the full search"
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[:4, :8] = True  # as many cells as are refined
    memory.look_within(inside)
    within = memory.far_distances(at)[:, 0, :4, :8]
    torch.testing.assert_close(within, brute[:, 0, :4, :8], rtol=1e-3, atol=1e-3)


def test_whitened_components_have_no_favourite_direction() -> None:
    """Channels on scales from 1 to 1000 that go together: components are uncorrelated, none much wider than another."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(4000, 16)) @ rng.normal(size=(16, 24)) * np.geomspace(1, 1000, 24))
    statistics = WhiteningStatistics(1, 24)
    statistics.add(0, features.float())
    projection, shift = statistics.whitening(12)
    white = features.float() @ projection.T + shift
    covariance = torch.cov(white.T)
    assert float(white.mean(dim=0).abs().max()) < 1e-2
    assert float((covariance - torch.diag(covariance.diagonal())).abs().max()) < 1e-2
    assert 0.4 < float(covariance.diagonal().min()) <= float(covariance.diagonal().max()) < 1.1


def test_components_without_a_group_are_those_of_the_others() -> None:
    """Nothing of the group that is taken away is left in projection and shift; few features have few components."""
    rng = np.random.default_rng(1)
    groups = [torch.from_numpy(rng.normal(k, 1 + k, (400, 6))).float() for k in range(3)]
    every, others = WhiteningStatistics(3, 6), WhiteningStatistics(2, 6)
    for k, features in enumerate(groups):
        every.add(k, features)
    for k, features in enumerate((groups[0], groups[2])):
        others.add(k, features)
    for mine, theirs in zip(every.whitening(6, without=1), others.whitening(6), strict=True):
        torch.testing.assert_close(mine.abs(), theirs.abs(), rtol=1e-4, atol=1e-4)
    few = WhiteningStatistics(1, 6)
    few.add(0, groups[0][:60])
    assert few.whitening(6)[0].shape == (2, 6)


def test_it_keeps_as_many_patches_as_it_may_and_the_seed_decides_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches lie in the regions alone; a pool smaller than all patches is drawn by the seed."""
    monkeypatch.setattr(remember, "POOL", 500)
    first, again, other = network(), network(), network()
    for one, seed in ((first, 0), (again, 0), (other, 1)):
        fill(one, images(12), np.arange(12), seed)
    assert first.memory is not None
    assert again.memory is not None
    assert other.memory is not None
    assert first.memory.patches.shape == (200, 12 * 64 // PER_COMPONENT)
    assert torch.equal(first.memory.patches, again.memory.patches)
    assert not torch.equal(first.memory.patches, other.memory.patches)


@pytest.mark.parametrize("cache", [1 << 30, 0])
def test_a_left_out_part_is_as_far_as_if_it_had_never_been_shown(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both images of a strange part are strange although each resembles the other; kept in memory or computed again."""
    monkeypatch.setattr(remember, "CACHE_BYTES", cache)
    shown = images(12)
    shown[4:6] = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    parts = np.arange(12) // 2
    maps = fill(network(), shown, parts)
    highest = maps.max(axis=(1, 2))
    assert maps.shape == (12, SIDE // 8, SIDE // 8)
    assert highest[4:6].min() > 1.15 * np.delete(highest, [4, 5]).max()


def test_it_is_scored_by_the_engine_as_by_calibration() -> None:
    """The fused network gives a new part the readings that count, in the units that limits are chosen in."""
    fitted = fit_memory(images(20), np.arange(20), MODEL, CANVAS, REGIONS, **HOW)
    memory = fitted.constants.memory
    assert memory is not None
    assert memory.surface is not None
    every = replace(memory, readings=READINGS, units=units_of(np.random.default_rng(0).normal(8, 1, (9, 2, 2))))
    engine = FusedEngine(fitted.network, MODEL, CANVAS, REGIONS, replace(fitted.constants, memory=every))
    new = torch.from_numpy(images(1, seed=99))
    with torch.no_grad():
        part, regions, anomaly_map = engine(new)
        outputs = fitted.network(new)
        read = Readings(CANVAS, REGIONS, READINGS, GRID)(outputs.unknown)
    expected = in_units(read.double().numpy(), every.units)
    np.testing.assert_allclose(regions.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert float(part[0]) == float(regions.max())
    assert anomaly_map.shape == (1, SIDE // 4, SIDE // 4)


@pytest.mark.parametrize("readings", [("highest",), ("highest", "mean")])
def test_only_a_mean_needs_a_full_search(readings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine spares cells where the highest counts alone: no part scores more, an odd one the same."""
    fitted = fit_memory(images(20), np.arange(20), MODEL, CANVAS, REGIONS, **HOW)
    memory = fitted.constants.memory
    assert memory is not None
    units = units_of(np.random.default_rng(0).normal(8, 1, (9, len(readings), 2)))
    constants = replace(fitted.constants, memory=replace(memory, readings=readings, units=units))
    shown = images(6, seed=8)
    shown[0, 8:24, 40:56] = np.random.default_rng(2).integers(0, 256, (16, 16, 3))
    new = torch.from_numpy(shown)
    full = FusedEngine(fitted.network, MODEL, CANVAS, REGIONS, constants)(new)
    monkeypatch.setattr("engines.networks.memory.COARSE", 90)
    engine = FusedEngine(fitted.network, MODEL, CANVAS, REGIONS, constants)
    assert fitted.network.memory is not None
    assert fitted.network.memory.far_only is (readings == ("highest",))
    found = engine(new)
    assert float(found[0][0]) == pytest.approx(float(full[0][0]), abs=1e-3)
    assert bool((found[0] <= full[0] + 1e-3).all())
    assert torch.allclose(found[2], full[2], atol=1e-4) is (len(readings) == 2)


def test_made_defects_decide_whether_the_mean_counts() -> None:
    """A mean that tells defects apart is let in; one that only adds the noise of good parts stays out."""
    rng = np.random.default_rng(0)
    good, defects = rng.normal(10, 1, (200, 2, 1)), rng.normal(10, 1, (100, 2, 1))
    defects[:50, 0] += 9
    noisy, alone = _compared(_Trial(good, defects, ("large",) * 100, ASKED))
    assert noisy.names == ("highest",)
    assert noisy.caught == pytest.approx(0.5, abs=0.03)
    defects[50:90, 1] += 9
    both, alone = _compared(_Trial(good, defects, ("large",) * 100, ASKED))
    assert (both.names, alone.names) == (READINGS, ("highest",))
    assert both.caught == pytest.approx(0.9, abs=0.03)


def test_each_size_of_made_defects_has_the_same_say() -> None:
    """A mean that finds the few defects of whole surfaces is let in although it costs more of the many small ones."""
    rng = np.random.default_rng(0)
    good, defects = rng.normal(10, 1, (200, 2, 1)), rng.normal(10, 1, (110, 2, 1))
    good[:6, 1] += 3
    defects[:100, 0] += np.linspace(0, 6, 100)[:, None]
    defects[100:, 1] += 9
    both, alone = _compared(_Trial(good, defects, ("small",) * 100 + ("whole",) * 10, ASKED))
    assert both.names == READINGS
    small = [rejected(way.defect_scores, ASKED.limits(way.scores))[:100].sum() for way in (both, alone)]
    assert small[0] < small[1], "the mean must cost small defects for the test to say anything"
    assert alone.caught < 0.4


def test_left_out_good_parts_and_fresh_ones_have_one_distribution() -> None:
    """Limits are chosen on the former and hold for the latter: 60 parts and 60 new ones, by Kolmogorov and Smirnov."""
    model = ModelSettings.model_validate({"score": "memory", "memory_patches": 200})
    fitted = fit_memory(images(60), np.arange(60), model, CANVAS, REGIONS, **HOW)
    engine = FusedEngine(fitted.network, model, CANVAS, REGIONS, fitted.constants)
    with torch.no_grad():
        fresh = engine(torch.from_numpy(images(60, seed=8)))[0].numpy()
    assert ks_2samp(fitted.part_scores, fresh).pvalue > 0.05


def test_a_region_that_is_odd_everywhere_raises_its_own_mean() -> None:
    """The mean is over a region's own cells: no single one stands out, and no other region is touched."""
    read = Readings(CANVAS, REGIONS, ("mean",), GRID)
    maps = torch.full((1, 1, 8, 8), 5.0)
    maps[0, 0, 4:] += 1.0
    before, after = read(torch.full((1, 1, 8, 8), 5.0))[0, 0], read(maps)[0, 0]
    assert before.tolist() == pytest.approx([5.0, 5.0])
    assert after[1] > 5.5
    assert after[0] < after[1]


def test_a_far_patch_raises_its_own_region() -> None:
    """One cell far off is its region's highest, and no other's."""
    rng = np.random.default_rng(3)
    read = Readings(CANVAS, REGIONS, READINGS[:1], GRID)

    def of(maps: NDArray[np.float32]) -> NDArray[np.float64]:
        return read(torch.from_numpy(maps).unsqueeze(1)).double().numpy()

    maps = rng.uniform(5, 6, (40, 8, 8)).astype(np.float32)
    units = units_of(of(maps))
    one = maps[:1].copy()
    one[0, 6, 1] = 12
    assert in_units(of(one), units)[0, 1] > 10
    assert in_units(of(one), units)[0, 0] < 3


def test_the_finest_features_of_another_surface_stand_out() -> None:
    """Statistics without a group of parts are those of the others; a surface that they lack is far from their mean."""
    statistics = SurfaceStatistics(2, CANVAS, REGIONS)
    generator = torch.Generator().manual_seed(0)
    plain, other = torch.randn(8, 6, 16, 16, generator=generator), 4 + torch.randn(8, 6, 16, 16, generator=generator)
    grey = torch.full((8, 3, SIDE, SIDE), 90.0) + torch.randn(8, 3, SIDE, SIDE, generator=generator)
    statistics.add(np.zeros(8, np.int64), plain, grey)
    statistics.add(np.ones(8, np.int64), other, grey)
    outputs = NetworkOutputs([], [], None, grey, None, None, None, other)
    strange = Surface(statistics.constants(without=1))(outputs)["fine"]
    seen = Surface(statistics.constants(without=0))(outputs)
    known, tint = seen["fine"], seen["tint"]
    assert float(known.mean()) == pytest.approx(1.0, abs=0.15)
    assert float(strange[:, :, 2:-2, 2:-2].min()) > 2 * float(known.mean())
    assert float(tint.mean()) == pytest.approx(1.0, abs=0.25)


def test_units_are_those_of_usual_parts_whatever_the_oddest_is() -> None:
    """One good part that is far off moves neither median nor unit."""
    read = np.random.default_rng(0).normal(10, 1, (50, 2, 1))
    odd = read.copy()
    odd[0] = 1000
    np.testing.assert_allclose(units_of(read).location, units_of(odd).location, atol=0.2)
    np.testing.assert_allclose(units_of(read).scale, units_of(odd).scale, rtol=0.3)
