"""Ablations that are settings: what is left out is left out of the score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bundle_making import CANVAS, REGIONS
from pydantic import ValidationError
from torch import Tensor

from calibration.train import Trained, train
from engines.networks.outputs import NetworkOutputs
from engines.networks.tail import PaperTail
from engines.patch_gmsd import msgms, patch_gmsd
from engines.settings import CanvasSettings, ModelSettings, PatchGmsdSettings, RegionSettings, TrainingSettings
from engines.teachers import load_teacher, random_teacher

LAMBDAS = (1.0, 0.5)
CANVAS_SHAPE = (CANVAS.height_px, CANVAS.width_px)
CELLS = (CANVAS.height_px // 4, CANVAS.width_px // 4)


def outputs(seed: int) -> NetworkOutputs:
    """What a network with a decoder might say of one part."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(1, *shape, generator=generator)

    targets = [draw(6, CELLS[0] >> k, CELLS[1] >> k) for k in range(3)]
    imitations = [draw(6, CELLS[0] >> k, CELLS[1] >> k) for k in range(3)]
    planes = draw(3, CANVAS.height_px, CANVAS.width_px) * 255
    return NetworkOutputs(targets, imitations, draw(*CELLS), planes, draw(*CANVAS_SHAPE), None)


def test_without_features_the_score_is_patch_gmsd_alone() -> None:
    """Region scores are lambda_r * Patch_GMSD_r whatever the features say; the map shows each region's in its cells."""
    model = ModelSettings(features=False, score="paper")
    tail = PaperTail(model, CANVAS, REGIONS, (3, 3, 3), LAMBDAS)
    said = outputs(1)
    part, regions, maps = tail(said)
    assert said.reconstruction is not None
    image, reconstruction = (grey[0].double().numpy() for grey in (said.grey, said.reconstruction))
    expected = np.array(LAMBDAS) * patch_gmsd(image, reconstruction, REGIONS, model.patch_gmsd)
    np.testing.assert_allclose(regions[0].numpy(), expected, atol=1e-5)
    assert float(part[0]) == pytest.approx(expected.max(), abs=1e-5)
    assert tuple(maps.shape) == (1, *CELLS)
    assert float(maps[0, 4, 3]) == pytest.approx(expected[0], abs=1e-5)
    assert float(maps[0, 4, 20]) == pytest.approx(expected[1], abs=1e-5)
    assert float(maps[0, 0, 0]) == 0
    louder = said._replace(targets=[10 * level for level in said.targets])
    torch.testing.assert_close(tail(louder)[1], regions)


def test_with_features_they_count() -> None:
    """The very same outputs, features left in: louder features make every score higher."""
    tail = PaperTail(ModelSettings(score="paper"), CANVAS, REGIONS, (3, 3, 3), LAMBDAS)
    said = outputs(1)
    louder = said._replace(targets=[10 * level for level in said.targets])
    assert bool((tail(louder)[1] > tail(said)[1]).all())


@pytest.mark.parametrize("changes", [{"score": "calibrated"}, {"score": "paper", "decoder": False}])
def test_no_score_at_all_is_refused(changes: dict[str, object]) -> None:
    """Without features there must be a decoder, and the formula that it can stand alone in."""
    with pytest.raises(ValidationError, match="features: false"):
        ModelSettings(features=False, **changes)


def test_the_baseline_is_msgms_of_the_whole_part() -> None:
    """One region, one patch, no neighbours, the mean: what the paper calls MSGMS as the anomaly score."""
    whole = RegionSettings(name="whole", top_px=0, left_px=0, height_px=32, width_px=48, patches=((1, 1),))
    image, reconstruction = np.random.default_rng(3).random((2, 64, 96))
    settings = PatchGmsdSettings(neighbours=False, measure="mean")
    score = patch_gmsd(image, reconstruction, [whole], settings)
    assert score[0] == pytest.approx(1 - msgms(image[:32, :48], reconstruction[:32, :48]).mean())


def test_untrained_teachers_depend_on_the_seed() -> None:
    """Same seed, same numbers, shaped as the trained teacher's; their name says what they are."""
    planes = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    first, again, other = (random_teacher("efficientnet_lite0", 3, seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    trained = load_teacher("efficientnet_lite0", 3)
    with torch.inference_mode():
        levels, same, different, real = (teacher(planes) for teacher in (first, again, other, trained))
    assert [level.shape for level in levels] == [level.shape for level in real]
    assert all(torch.equal(one, two) for one, two in zip(levels, same, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(levels, different, strict=True))
    assert first.weights == again.weights
    assert first.weights != other.weights
    assert first.weights is not None
    assert "untrained" in first.weights.name


def test_an_autoencoder_is_taught_by_no_teacher() -> None:
    """Without distillation there is one stage, which trains student and decoder together on the image alone."""
    one = RegionSettings(name="whole", top_px=0, left_px=0, height_px=64, width_px=64, patches=((2, 2),))
    canvas = CanvasSettings(height_px=64, width_px=64)
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    changes: dict[str, object] = {"features": False, "distillation": False, "score": "paper", "attention": False}
    training = TrainingSettings(steps=6, decoder_steps=3, batch=4)

    def learn(teachers: tuple[str, ...]) -> Trained:
        model = ModelSettings.model_validate({**changes, "teachers": teachers})
        return train(
            images,
            model,
            training,
            canvas=canvas,
            regions=[one],
            seed=0,
            work=None,
            progress=lambda stage, done, total: None,
        )

    first, other = learn(("efficientnet_lite0",)), learn(("efficientnet_lite1",))
    assert list(first.losses) == ["student"]
    assert first.losses["student"][-1] < first.losses["student"][0]
    theirs = other.network.state_dict()
    own = {name: value for name, value in first.network.state_dict().items() if not name.startswith("teachers.")}
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    with pytest.raises(ValidationError, match="distillation: false"):
        ModelSettings(distillation=False)


def test_four_levels_are_compared_where_four_are_asked_for() -> None:
    """The fourth level, of stride 32, is taught and scored like the others, and the decoder starts from it."""
    model = ModelSettings(levels=4, attention=False, discriminator=False)
    training = TrainingSettings(steps=1, decoder_steps=1, batch=4)
    images = np.random.default_rng(0).integers(0, 256, (4, *CANVAS_SHAPE, 3), np.uint8)
    made = train(
        images, model, training, canvas=CANVAS, regions=REGIONS, seed=0, work=None, progress=lambda what, done, of: None
    )
    with torch.inference_mode():
        said = made.network(torch.from_numpy(images[:1]))
    expected = [(CANVAS.height_px // s, CANVAS.width_px // s) for s in (4, 8, 16, 32)]
    assert [tuple(level.shape[2:]) for level in said.targets] == expected
    assert [tuple(level.shape) for level in said.imitations] == [tuple(level.shape) for level in said.targets]
    assert said.reconstruction.shape == (1, *CANVAS_SHAPE)


def test_reverse_families_have_three_levels() -> None:
    """What their bottleneck joins is fixed by their papers."""
    with pytest.raises(ValidationError, match="compares three"):
        ModelSettings(family="rd_two_teachers", levels=4)


def test_training_leaves_arithmetic_as_it_was() -> None:
    """Numbers below the normal range count again after training: an evaluation in the same process needs them."""
    images = np.random.default_rng(0).integers(0, 256, (4, *CANVAS_SHAPE, 3), np.uint8)
    model = ModelSettings(score="paper", teachers=("efficientnet_lite0",), attention=False, decoder=False)
    training = TrainingSettings(steps=1, decoder_steps=0, batch=4)
    train(
        images, model, training, canvas=CANVAS, regions=REGIONS, seed=0, work=None, progress=lambda what, done, of: None
    )
    assert np.float32(1e-40) * np.float32(1) > 0
