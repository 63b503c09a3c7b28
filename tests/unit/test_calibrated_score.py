"""`score: calibrated` on made-up network outputs: what raises it, where, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration.cell_statistics import SMALLEST_DEVIATION
from calibration.constants import fit_constants
from engines.networks.calibrated import Blur, CalibratedTail, Maps, Views
from engines.networks.outputs import NetworkOutputs
from engines.networks.patch_gmsd import PatchGmsd
from engines.networks.region_maps import OUTSIDE
from engines.scoring import PATCH_WEIGHT, CalibratedConstants, ScoringConstants, gaussian
from engines.settings import CanvasSettings, ModelSettings, RegionSettings

SIDE = 64
CANVAS = CanvasSettings(height_px=SIDE, width_px=SIDE)
REGIONS = (
    RegionSettings(name="top", top_px=0, left_px=0, height_px=32, width_px=64, patches=((2, 4), (1, 2))),
    RegionSettings(name="bottom", top_px=32, left_px=0, height_px=32, width_px=64, patches=((2, 4), (1, 2))),
)
MODEL = ModelSettings(decoder=False, attention=False)
LEVELS = ((4, 16), (6, 8), (8, 4))
PARTS = 40


def _pose_pattern() -> np.ndarray:
    """A part whose every place has its own brightness."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (90 + 60 * (rows > 20) + 40 * (columns > 40)).astype(np.float32)


def _part(rng: np.random.Generator, *, posed: bool, spot: tuple[int, int] | None = None) -> NetworkOutputs:
    """Residuals are noise; planes are a part in one pose or shapeless texture, with a dark 3x3 spot where asked."""
    grey = (_pose_pattern() if posed else 120 + 0 * _pose_pattern()) + rng.normal(0, 3, (SIDE, SIDE))
    if spot is not None:
        grey[spot[0] : spot[0] + 3, spot[1] : spot[1] + 3] -= 40
    planes = torch.from_numpy(np.repeat(grey[None, None], 3, axis=1).astype(np.float32))
    targets = [torch.from_numpy(rng.normal(size=(1, c, s, s)).astype(np.float32)) for c, s in LEVELS]
    return NetworkOutputs(targets, [torch.zeros_like(level) for level in targets], None, planes, None, None)


def _reconstructed(part: NetworkOutputs, rng: np.random.Generator) -> NetworkOutputs:
    """The part with what a good decoder would make of it: nearly itself."""
    noise = torch.from_numpy(rng.normal(0, 0.004, (1, SIDE, SIDE)).astype(np.float32))
    return part._replace(reconstruction=part.grey + noise)


def _fit(*, posed: bool) -> tuple[CalibratedConstants, CalibratedTail, np.random.Generator]:
    rng = np.random.default_rng(5)
    good = [_part(rng, posed=posed) for _ in range(PARTS)]
    constants = fit_constants(good, np.zeros((PARTS, 2)), CANVAS, REGIONS, MODEL)
    return constants, CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), constants)), rng


def test_a_small_spot_on_a_posed_part_is_found_where_it_is() -> None:
    """A dark spot of 3 pixels lifts the part score above all good parts, in its region, at its place on the map."""
    _, tail, rng = _fit(posed=True)
    good = [float(tail(_part(rng, posed=True))[0]) for _ in range(20)]
    part_score, regions, anomaly_map = tail(_part(rng, posed=True, spot=(46, 12)))
    row, column = divmod(int(anomaly_map[0].argmax()), SIDE // 4)
    assert float(part_score) > max(good) + 3
    assert float(regions[0, 1]) == float(part_score) > float(regions[0, 0]) + 3
    assert (row, column) in {(r, c) for r in (11, 12) for c in (3,)}


def test_good_parts_score_about_zero() -> None:
    """Region scores are in deviations of good parts from their mean: fresh good parts lie around 0."""
    _, tail, rng = _fit(posed=True)
    scores = np.array([tail(_part(rng, posed=True))[1][0].numpy() for _ in range(60)])
    assert np.all(np.abs(scores.mean(axis=0)) < 2.0)
    assert np.all(scores.std(axis=0) < 3.0)


def test_texture_has_no_places_to_compare_with() -> None:
    """Where no pixel has a look of its own, the component that compares pixel by pixel is left out."""
    assert len(_fit(posed=True)[0].detail_mean) > 0
    assert len(_fit(posed=False)[0].detail_mean) == 0


def _noise(rng: np.random.Generator, raised: float = 0.0) -> Maps:
    """Maps of two regions of 32x64 cells, noise; a block of 12x12 cells of the upper one raised by so much."""
    total, features = (rng.normal(size=(1, 64, 64)).astype(np.float32) for _ in range(2))
    total[:, 10:22, 30:42] += raised
    return Maps(torch.from_numpy(total), torch.from_numpy(features))


def test_what_is_faint_but_extended_shows_under_the_wide_gaussian() -> None:
    """No cell of a block stands out, the block does, in its region alone and in the view of the map that has it."""
    outside = torch.full((2, 64, 64), OUTSIDE)
    outside[0, :32], outside[1, 32:] = 0.0, 0.0
    views = Views(outside.flatten(1), 64, 64, posed=False)
    rng = np.random.default_rng(5)
    good = torch.cat([views(_noise(rng)) for _ in range(40)])
    faint = torch.cat([views(_noise(rng, 0.6)) for _ in range(10)])
    risen = (faint.mean(dim=0) - good.mean(dim=0)) / good.std(dim=0)
    total, features, wide_total, wide_features = risen[:, 0].tolist()
    assert wide_total > 3
    assert total < 2
    assert max(abs(features), abs(wide_features), *risen[:, 1].abs().tolist()) < 1


def test_a_region_is_as_unusual_as_its_worst_view() -> None:
    """Each view's highest cell in deviations over good parts; the highest of these is the score."""
    rng = np.random.default_rng(5)
    good = [_judged(_part(rng, posed=False), rng) for _ in range(PARTS)]
    constants = fit_constants(good, np.zeros((PARTS, 2)), CANVAS, REGIONS, MODEL)
    tail = CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), constants))
    part = _judged(_part(rng, posed=False), rng)
    views = tail.views(tail.anomaly_map(part))[0].numpy()
    assert views.shape == (4, 2)
    expected = ((views - constants.region_location) / constants.region_scale).max(axis=0)
    assert tail(part)[1][0].numpy() == pytest.approx(expected, abs=1e-4)


def test_a_defect_that_the_discriminator_does_not_know_is_not_lost_beside_it() -> None:
    """Features alone see something; the discriminator's noise, which counts for much, does not hide it."""
    rng = np.random.default_rng(5)
    good = [_judged(_part(rng, posed=False), rng) for _ in range(PARTS)]
    constants = fit_constants(good, np.zeros((PARTS, 2)), CANVAS, REGIONS, MODEL)
    tail = CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), constants))
    by_map = replace(constants, region_location=constants.region_location[:1], region_scale=constants.region_scale[:1])
    alone = CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), by_map))
    parts = [_judged(_part(rng, posed=False), rng) for _ in range(20)]
    limits = [max(float(one(part)[0]) for part in parts) for one in (tail, alone)]
    for part in parts:
        part.targets[2][:, :, 1, 1] += 2.5
    found, by_map_alone = (
        np.mean([float(one(part)[0]) > limit for part in parts])
        for one, limit in zip((tail, alone), limits, strict=True)
    )
    assert found > by_map_alone + 0.1


def _judged(part: NetworkOutputs, rng: np.random.Generator) -> NetworkOutputs:
    """The part with logits of a discriminator that finds nothing: noise."""
    logits = torch.from_numpy(rng.normal(-4, 1, (1, 1, SIDE // 4, SIDE // 4)).astype(np.float32))
    return part._replace(defects=logits)


def test_a_posed_parts_regions_are_judged_by_their_highest_cell_alone() -> None:
    """Where each place has a look of its own it is seen by itself: a Gaussian would only add noise."""
    assert _fit(posed=True)[0].region_location.shape == (1, 2)
    assert _fit(posed=False)[0].region_location.shape == (2, 2)  # no discriminator: the map, and it under the Gaussian


def test_what_never_happens_on_good_parts_counts_for_much_but_not_for_everything() -> None:
    """A channel that is silent on all good parts, and the student with it, fires: no score of millions."""
    rng = np.random.default_rng(5)
    good = [_part(rng, posed=False) for _ in range(PARTS)]
    for part in good:
        part.targets[2][:, 3] = 0.0
    constants = fit_constants(good, np.zeros((PARTS, 2)), CANVAS, REGIONS, MODEL)
    fired = _part(rng, posed=False)
    fired.targets[2][:, 3] = 0.0
    fired.targets[2][0, 3, 1, 1] = 1.0
    score = float(CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), constants))(fired)[0])
    assert 3 < score < 1000


def test_patch_gmsd_is_a_part_of_its_regions_score() -> None:
    """A spot that the decoder does not give back raises its region by the weight, in deviations over good parts."""
    model, lambdas = MODEL.model_copy(update={"decoder": True}), np.array([0.9, 0.4])
    gmsd = PatchGmsd(CANVAS, REGIONS, model.patch_gmsd)
    rng = np.random.default_rng(5)
    good = [_reconstructed(_part(rng, posed=False), rng) for _ in range(PARTS)]
    weighted = lambdas * np.concatenate([gmsd(part.grey, part.reconstruction).numpy() for part in good])
    constants = fit_constants(good, weighted, CANVAS, REGIONS, model)
    spotted = _reconstructed(_part(rng, posed=False), rng)
    spotted.planes[:, :, 10:14, 10:14] -= 80
    measured = lambdas * gmsd(spotted.grey, spotted.reconstruction)[0].numpy()
    expected = PATCH_WEIGHT * (measured - weighted.mean(axis=0)) / np.maximum(weighted.std(axis=0), SMALLEST_DEVIATION)
    with_decoder = CalibratedTail(model, CANVAS, REGIONS, ScoringConstants(tuple(lambdas), constants))
    without = CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants(tuple(lambdas), constants))
    raised = (with_decoder(spotted)[1] - without(spotted)[1])[0].numpy()
    assert raised == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert expected[0] > 1 > abs(expected[1])


def test_left_out_parts_are_scored_on_the_scale_of_what_runs() -> None:
    """Cells' statistics without a part, but one unit for all parts: an odd part is not moved away from the others."""
    rng = np.random.default_rng(5)
    good = [_part(rng, posed=False) for _ in range(PARTS - 1)] + [_part(rng, posed=True, spot=(46, 12))]
    whole, without = (
        fit_constants(chosen, np.zeros((len(chosen), 2)), CANVAS, REGIONS, MODEL) for chosen in (good, good[:-1])
    )
    own, common = (
        CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), constants))
        for constants in (without, without.on_scale_of(whole))
    )
    usual = [float(common(part)[0]) for part in good[:10]]
    assert float(own(good[-1])[0]) > 2 * float(common(good[-1])[0]) > 2 * max(usual)
    assert np.array_equal(without.on_scale_of(whole).gain, without.gain)


def test_constants_survive_their_file() -> None:
    """What is written beside the network gives the same score when it is read again."""
    constants, tail, rng = _fit(posed=True)
    again = CalibratedConstants.from_arrays(constants.arrays())
    part = _part(rng, posed=True, spot=(10, 10))
    assert torch.equal(
        CalibratedTail(MODEL, CANVAS, REGIONS, ScoringConstants((1.0, 1.0), again))(part)[1], tail(part)[1]
    )


def test_blur_is_a_mirrored_gaussian() -> None:
    """Each channel is blurred by itself, as NumPy does it with mirrored edges."""
    maps = np.random.default_rng(1).normal(size=(2, 3, 12, 14)).astype(np.float32)
    taps = gaussian(1.2).astype(np.float64)
    reach = len(taps) // 2
    padded = np.pad(maps.astype(np.float64), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    down = sum(tap * padded[:, :, k : k + 12] for k, tap in enumerate(taps))
    expected = sum(tap * down[..., k : k + 14] for k, tap in enumerate(taps))
    assert np.allclose(Blur(1.2)(torch.from_numpy(maps)).numpy(), expected, atol=1e-5)
