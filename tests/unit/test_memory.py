"""The memory of good parts' deep features: nearest distances as NumPy has them, what is kept, and what they raise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from calibration import remember
from calibration.constants import fit_constants
from engines.networks.calibrated import CalibratedTail
from engines.networks.dtkd import DtkdNetwork
from engines.networks.memory import COMPONENTS, Memory
from engines.networks.outputs import NetworkOutputs
from engines.preprocess import to_planes
from engines.scoring import MEMORY_WEIGHT
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import random_teacher

SIDE = 64
CANVAS = CanvasSettings(height_px=SIDE, width_px=SIDE)
REGIONS = (
    RegionSettings(name="top", top_px=0, left_px=0, height_px=32, width_px=64),
    RegionSettings(name="bottom", top_px=32, left_px=0, height_px=32, width_px=64),
)
MODEL = ModelSettings(decoder=False, attention=False, discriminator=False, memory_level=4)


def features(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Patches whose channels go together, as those of a network do: (count, channels) of rank 8, and some noise."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).normal(size=(8, channels))
    return torch.from_numpy(
        (rng.normal(size=(count, 8)) @ mixed + 0.1 * rng.normal(size=(count, channels))) * 3 + 5
    ).float()


def test_it_gives_the_distance_to_the_nearest_patch() -> None:
    """Against float64 NumPy: channels standardised, principal components, Euclidean distance, the smallest of all."""
    known, new = features(200, 96), features(12, 96, seed=1)
    memory = Memory(96)
    memory.remember(known)
    found = memory(new.T.reshape(1, 96, 3, 4))
    patches = known.numpy().astype(np.float64)
    standard = (patches - patches.mean(axis=0)) / patches.std(axis=0)
    components = np.linalg.eigh(np.cov(standard.T, bias=True))[1][:, -COMPONENTS:]
    other = ((new.numpy() - patches.mean(axis=0)) / patches.std(axis=0)) @ components
    expected = np.linalg.norm(other[:, None] - (standard @ components)[None], axis=2).min(axis=1)
    assert found.shape == (1, 1, 3, 4)
    np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=2e-4)


def test_what_it_has_seen_is_near() -> None:
    """A remembered patch is at the smallest distance there is; whatever was not seen is not."""
    known = features(100, 24)
    memory = Memory(24)
    memory.remember(known)
    seen, unseen = memory(known[:1].reshape(1, 24, 1, 1)), memory(features(1, 24, seed=3).reshape(1, 24, 1, 1))
    assert float(seen) == 1 < float(unseen) / 3


def network() -> DtkdNetwork:
    """Teachers with random weights, four levels of which three are compared."""
    return DtkdNetwork(MODEL, [random_teacher(name, MODEL.teacher_levels, 1) for name in MODEL.teachers]).eval()


def images(count: int) -> NDArray[np.uint8]:
    """(count, 64, 64, 3) of 0..255."""
    return np.random.default_rng(7).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def fill(one: DtkdNetwork, count: int, seed: int = 0, images_per_part: int = 1) -> remember.Remembered:
    """Remember so many images, without a progress bar."""
    return remember.fill_memory(one, images(count), np.arange(count) // images_per_part, seed, lambda *_: None)


def test_it_is_filled_from_the_deepest_level_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every patch of every good part up to the capacity; beyond it a choice that the seed decides alone."""
    told: list[tuple[str, int, int]] = []
    one = network()
    remember.fill_memory(one, images(20), np.arange(20), 0, lambda *state: told.append(state))
    assert one.memory is not None
    assert one.memory.patches.shape == (20 * 2 * 2, COMPONENTS)
    assert told[-1] == ("memory", 20, 20)
    assert [len(levels) for levels in one.channels] == [2, 2, 2]
    monkeypatch.setattr(remember, "CAPACITY", 30)
    again, other = network(), network()
    fill(one, 20)
    fill(again, 20)
    fill(other, 20, seed=1)
    assert again.memory is not None
    assert other.memory is not None
    assert len(one.memory.patches) == 30
    assert torch.equal(one.memory.patches, again.memory.patches)
    assert not torch.equal(one.memory.patches, other.memory.patches)


@pytest.mark.parametrize("capacity", [1000, 50])
def test_a_part_that_is_left_out_is_as_far_as_if_it_had_never_been_shown(
    capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both images of the part are forgotten, no other, and all come back; so also where not every patch was kept."""
    monkeypatch.setattr(remember, "CAPACITY", capacity)
    one = network()
    remembered = fill(one, 20, images_per_part=2)
    memory = one.memory
    assert memory is not None
    with torch.inference_mode():
        features = one.remembered(to_planes(torch.from_numpy(images(20))))
        own = functional.conv2d(features, memory.projection[:, :, None, None], memory.shift)
        patches = own.permute(0, 2, 3, 1).flatten(1, 2)  # 20 images, 4 places, components
        before = memory(features)
        with remembered.without(3):
            known = memory.patches
            left_out = memory(features)
    after = torch.cdist(patches, known).amin(dim=2)
    torch.testing.assert_close(left_out.flatten(1), after.clamp_min(1), rtol=1e-2, atol=1e-2)
    assert (before[:6] == left_out[:6]).all()
    assert (before[6:8] == 1).sum() == len(memory.patches) - len(known)
    assert float(left_out[6:8].min()) > 1.5
    assert len(memory.patches) == min(80, capacity)


def outputs(
    rng: np.random.Generator, far: tuple[int, int] | None = None, ground: NDArray[np.float64] | float = 120.0
) -> NetworkOutputs:
    """Noise on grey levels `ground` that all parts share, and a memory's map of 2x2 with one far patch where
    asked."""
    targets = [torch.from_numpy(rng.normal(size=(1, 4, s, s)).astype(np.float32)) for s in (16, 8, 4)]
    grey = torch.from_numpy(rng.normal(ground, 3, (1, 1, SIDE, SIDE)).astype(np.float32)).expand(1, 3, SIDE, SIDE)
    unknown = torch.from_numpy(rng.uniform(3, 4, (1, 1, 2, 2)).astype(np.float32))
    if far is not None:
        unknown[0, 0, far[0], far[1]] = 6.0
    zeros = [torch.zeros_like(level) for level in targets]
    return NetworkOutputs(targets, zeros, None, grey, None, None, unknown)


@pytest.mark.parametrize(("known", "counts_twice"), [(640, True), (64, False)])
def test_a_far_patch_raises_its_region_and_its_place_on_the_map(known: int, counts_twice: bool) -> None:
    """Nothing but the memory has changed: the right place of the map rises; from many known parts on the region's score
    rises by more than that, because its highest and its mean distance count once more."""
    rng = np.random.default_rng(3)
    good = [outputs(rng) for _ in range(30)]
    constants = fit_constants(good, np.zeros((30, 2)), CANVAS, REGIONS, MODEL, known=known)
    tail = CalibratedTail(MODEL, CANVAS, REGIONS, (1.0, 1.0), constants)
    usual = max(float(tail(outputs(rng))[0]) for _ in range(20))
    part_score, regions, anomaly_map = tail(outputs(rng, far=(1, 0)))
    row, column = divmod(int(anomaly_map[0].argmax()), 16)
    assert float(part_score) > usual + 1
    assert float(regions[0, 1]) == float(part_score) > float(regions[0, 0]) + 1
    assert row >= 8 > column
    by_map = (float(anomaly_map[0, 8:].max()) - constants.region_location[0, 1]) / constants.region_scale[0, 1]
    assert (float(part_score) - by_map > 1) == counts_twice


def test_what_is_a_little_unusual_everywhere_counts_in_a_region_of_its_own() -> None:
    """No cell of a region is far from what is known, but all are further than usual: with many known parts this
    region's score is high, and no other's."""
    rng = np.random.default_rng(4)
    good = [outputs(rng) for _ in range(30)]
    constants = fit_constants(good, np.zeros((30, 2)), CANVAS, REGIONS, MODEL, known=640)
    tail = CalibratedTail(MODEL, CANVAS, REGIONS, (1.0, 1.0), constants)
    part = outputs(rng)
    assert part.unknown is not None
    part.unknown[0, 0, 1] = torch.tensor([3.0, 4.0])
    before = tail(part)[1]
    part.unknown[0, 0, 1, 0] = 4.0  # the region's highest stays what it was
    after = tail(part)[1]
    assert float(after[0, 1] - before[0, 1]) > 3
    assert float((after[0, 0] - before[0, 0]).abs()) < float(after[0, 1] - before[0, 1]) / 2


def test_parts_in_one_pose_are_judged_by_their_places() -> None:
    """However much a memory knows: where each place has a mean of its own it counts on the map only, and little."""
    rng = np.random.default_rng(5)
    ground = np.kron(rng.uniform(60, 200, (8, 8)), np.ones((8, 8)))
    posed, loose = (
        fit_constants([outputs(rng, ground=g) for _ in range(30)], np.zeros((30, 2)), CANVAS, REGIONS, MODEL, known=640)
        for g in (ground, 120.0)
    )
    assert (posed.memory_gain == 0).all()
    assert (loose.memory_gain > 0).all()
    assert float(posed.memory_weight[0]) == MEMORY_WEIGHT < float(loose.memory_weight[0])
