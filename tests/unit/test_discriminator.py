"""The discriminator: what it sees, where its answer goes, and that drawn-on defects teach it ones it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from calibration import discriminate
from calibration.checkpoint import Checkpoint
from calibration.discriminate import discriminator_stage, take_up
from calibration.drawn_defects import DefectPainter
from calibration.stages import LOSSES, run_stage
from calibration.surface import has_no_direction, in_canonical_pose, introduce, surface_noise
from engines.errors import WeightsError
from engines.networks.discriminator import MEMBERS, NOTHING, Discriminator, View, new_discriminator
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings

CANVAS = CanvasSettings(height_px=64, width_px=64)
REGION = RegionSettings(name="all", top_px=17, left_px=9, height_px=30, width_px=45)


def planes(count: int, seed: int = 0) -> torch.Tensor:
    """Good parts: a grey block with a bright end, grained; (count, 3, 64, 64) of 0..255."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 64, 64, 3), np.float32)
    images[:, 16:48, 8:56] = 120
    images[:, 16:48, 8:20] = 220
    grain = rng.normal(0, 5, (count, 64, 64, 1)) * (images > 0)
    return torch.from_numpy((images + grain).astype(np.float32)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize(
    ("canvas", "region", "expected"),
    [
        (CANVAS, REGION, View(16, 8, 32, 48, 1)),
        (CanvasSettings(height_px=256, width_px=256), REGION, View(16, 0, 32, 64, 2)),
        (CanvasSettings(height_px=512, width_px=512), REGION, View(0, 0, 64, 64, 4)),
        (
            CanvasSettings(height_px=1024, width_px=32),
            REGION.model_copy(update={"width_px": 23}),
            View(0, 0, 64, 32, 4),
        ),
    ],
)
def test_the_view_holds_the_regions_in_whole_steps(
    canvas: CanvasSettings, region: RegionSettings, expected: View
) -> None:
    """The view covers all regions, stays on the canvas and is averaged down where the canvas is large."""
    assert View.of(canvas, [region]) == expected


@pytest.mark.parametrize("side", [64, 256, 512])
def test_its_map_has_one_cell_per_four_pixels_and_says_nothing_outside_the_view(side: int) -> None:
    """Whatever the canvas, the map fits the anomaly map, and cells that were not looked at hold the lowest logit."""
    canvas = CanvasSettings(height_px=side, width_px=side)
    discriminator = Discriminator(canvas, [REGION]).eval()
    with torch.no_grad():
        cells = discriminator(torch.zeros(2, 3, side, side))
    assert cells.shape == (2, 1, side // 4, side // 4)
    view = discriminator.view
    outside = torch.ones_like(cells, dtype=torch.bool)
    outside[..., view.top // 4 : (view.top + view.height) // 4, view.left // 4 : (view.left + view.width) // 4] = False
    assert (cells[outside] == NOTHING).all()
    assert (cells[~outside] > NOTHING).all()


def test_its_members_begin_apart_and_their_mean_counts() -> None:
    """Members that began with the same weights would say the same, and a mean of them no more than one."""
    torch.manual_seed(0)
    discriminator = Discriminator(CANVAS, [REGION]).eval()
    shown = planes(2)
    seen = discriminator.view.cut(shown)
    introduce(discriminator, seen, torch.ones(32, 48, dtype=torch.bool), canonical=True)
    with torch.no_grad():
        compared = discriminator.compared(seen)
        logits = [member(compared) for member in discriminator.members]
        cells = discriminator(shown)
    assert compared.abs().mean() > 0.1
    assert len(logits) == MEMBERS > 1
    assert not any(torch.allclose(logits[0], other) for other in logits[1:])
    mean = discriminator.view.to_cells(torch.stack(logits).mean(dim=0), discriminator.canvas)
    assert torch.allclose(cells, mean, atol=1e-6)


def test_each_member_is_shown_defects_of_its_own() -> None:
    """Shown the same ones they would agree in what they get wrong; the same step shows the same ones again."""
    discriminator = Discriminator(CANVAS, [REGION])
    training = TrainingSettings(steps=1, decoder_steps=0, discriminator_steps=1)
    stage = discriminator_stage(discriminator, planes(8), [REGION], training, 0)
    shown: list[torch.Tensor] = []
    for member in discriminator.members:
        member.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    chosen = torch.arange(4)
    for _ in range(2):
        stage.loss(chosen)
    first, again = shown[:MEMBERS], shown[MEMBERS:]
    assert not any(torch.equal(first[0], other) for other in first[1:])
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_only_the_calibrated_score_has_one() -> None:
    """The paper's formula stays the paper's, and the setting switches it off."""
    assert new_discriminator(ModelSettings(), CANVAS, [REGION]) is not None
    assert new_discriminator(ModelSettings(score="paper"), CANVAS, [REGION]) is None
    assert new_discriminator(ModelSettings(discriminator=False), CANVAS, [REGION]) is None


def test_a_few_steps_teach_it_a_defect_that_nobody_drew_for_it() -> None:
    """A square hole, no shape of the painter's, gets the highest logit, at its place, on parts it never saw."""
    torch.manual_seed(0)
    discriminator = Discriminator(CANVAS, [REGION])
    training = TrainingSettings(steps=1, decoder_steps=0, discriminator_steps=60)
    stage = discriminator_stage(discriminator, planes(24), [REGION], training, 0)
    losses = {f"{LOSSES}discriminator": torch.zeros(60)}
    run_stage(stage, discriminator, losses, Checkpoint(None, ""), lambda *_: None)
    written = losses[f"{LOSSES}discriminator"]
    assert written[-10:].mean() < 0.7 * written[:10].mean()
    good, bad = planes(8, seed=1), planes(8, seed=1)
    bad[:, :, 30:35, 36:41] -= 40
    with torch.no_grad():
        on_good, on_bad = discriminator(good), discriminator(bad)
    assert (on_bad.amax(dim=(1, 2, 3)) > on_good.amax(dim=(1, 2, 3))).all()
    row, column = np.unravel_index(int(on_bad.mean(dim=0)[0].argmax()), (16, 16))
    assert 7 <= row <= 8
    assert 9 <= column <= 10


def test_what_ships_finds_a_defect_before_any_step_at_the_station() -> None:
    """Told what good parts look like and not trained, it gives a faint square hole the highest logit, at its place."""
    discriminator = Discriminator(CANVAS, [REGION])
    take_up(discriminator.eval())
    seen = discriminator.view.cut(planes(24))
    introduce(discriminator, seen, torch.ones(32, 48, dtype=torch.bool), canonical=True)
    good, bad = planes(8, seed=1), planes(8, seed=1)
    bad[:, :, 30:35, 36:41] -= 15  # three deviations of the grain
    with torch.no_grad():
        on_good, on_bad = discriminator(good), discriminator(bad)
    assert (on_bad.amax(dim=(1, 2, 3)) > on_good.amax()).all()
    row, column = np.unravel_index(int(on_bad.mean(dim=0)[0].argmax()), (16, 16))
    assert 7 <= row <= 8
    assert 9 <= column <= 10


def test_a_package_without_the_taught_networks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file and one of other networks are one line; random weights never take their place."""
    monkeypatch.setattr(discriminate, "TAUGHT", tmp_path / "discriminator.safetensors")
    with pytest.raises(WeightsError, match="install inspectd again"):
        take_up(Discriminator(CANVAS, [REGION]))
    torch_file = {"0.head.bias": torch.zeros(1)}
    save_file(torch_file, tmp_path / "discriminator.safetensors")
    with pytest.raises(WeightsError, match="install inspectd again"):
        take_up(Discriminator(CANVAS, [REGION]))


def test_parts_in_one_pose_are_told_from_texture() -> None:
    """A part whose places have colours of their own is in canonical pose, noise is not."""
    assert in_canonical_pose(planes(8))
    assert not in_canonical_pose(torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 3, 16, 16))))


def test_a_grain_is_a_direction() -> None:
    """Cast surfaces may be turned by a quarter and still be good parts, ground or woven ones may not."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 3, 32, 32)))
    ground = torch.nn.functional.avg_pool2d(noise, (7, 1), stride=1)
    assert has_no_direction(noise)
    assert not has_no_direction(ground)
    assert not has_no_direction(ground.transpose(2, 3))


def test_surface_noise_overlooks_edges() -> None:
    """A line along which good parts vary more does not raise the noise of the surface beside it."""
    detail = torch.full((32, 32), 2.0)
    detail[:, 15:17] = 40.0
    inside = torch.ones(32, 32, dtype=torch.bool)
    inside[:4] = False
    assert surface_noise(detail, inside) == pytest.approx(torch.full((32, 32), 2.0))


def test_drawn_defects_stay_where_they_may_be_and_are_all_different() -> None:
    """Masks lie on the part, images outside them and their blur stay as they were, contrasts go both ways."""
    where = np.zeros((64, 64), np.bool_)
    where[16:48, 8:56] = True
    painter = DefectPainter(where, np.full((64, 64), 4.0, np.float32))
    rng = np.random.default_rng(0)
    signs, places = set(), set()
    for _ in range(40):
        image = np.full((64, 64, 3), 120, np.float32)
        mask = painter.draw(image, rng)
        change = image.mean(axis=2) - 120
        assert mask.sum() >= 4
        assert not mask[~where].any()
        assert np.abs(change)[:12].max() == 0
        assert image.min() >= 0
        assert image.max() <= 255
        signs.add(np.sign(change[mask].mean()))
        places.add(tuple(np.argwhere(mask).mean(axis=0).round(2)))
    assert signs == {-1.0, 1.0}
    assert len(places) == 40


def test_a_painter_without_a_place_draws_nothing() -> None:
    """Where defects may be nowhere, the image stays as it was and the mask is empty."""
    painter = DefectPainter(np.zeros((32, 32), np.bool_), np.ones((32, 32), np.float32))
    image = np.full((32, 32, 3), 90, np.float32)
    assert not painter.draw(image, np.random.default_rng(0)).any()
    assert (image == 90).all()
