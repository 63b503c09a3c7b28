"""Family rd_two_teachers: how its modules are put together, what its student learns, its score and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from calibration import checkpoint as checkpoint_module
from calibration.checkpoint import Checkpoint
from calibration.families import student_stage
from calibration.stages import LOSSES, run_stage, trainable
from calibration.targets import Targets
from calibration.train import train
from engines.networks.families import new_network, paper_tail
from engines.networks.fused import FusedEngine, load_fused, save_fused
from engines.networks.iaff import Iaff
from engines.networks.ms_cam import MsCam
from engines.networks.outputs import NetworkOutputs
from engines.networks.rd_two_teachers import RdTwoTeachers
from engines.networks.two_branch import BasicUpBlock
from engines.preprocess import to_planes
from engines.scoring import ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TeacherName, TrainingSettings
from engines.teachers import SPECS, Teacher, WeightsInfo, untrained_stages

CANVAS = CanvasSettings(height_px=32, width_px=64)
REGIONS = [
    RegionSettings(name="left", top_px=0, left_px=0, height_px=32, width_px=24),
    RegionSettings(name="right", top_px=8, left_px=32, height_px=16, width_px=24),
]
LITE: tuple[TeacherName, ...] = ("efficientnet_lite0", "efficientnet_lite1")
TRAINING = TrainingSettings(steps=6, decoder_steps=0, batch=4, learning_rate=5e-3, schedule="cosine")


def settings(teachers: tuple[TeacherName, ...] = LITE, score: str = "paper", **options: Any) -> ModelSettings:
    """The family's, narrow."""
    given = {"teachers": teachers, "score": score, "rd_two_teachers": {"width": 8, **options}}
    return ModelSettings.model_validate({"family": "rd_two_teachers", "discriminator": False, **given})


def network(model: ModelSettings) -> RdTwoTeachers:
    """An untrained network around teachers that know nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teachers = [Teacher(name, untrained_stages(name, 3), WeightsInfo("none", "", "")) for name in model.teachers]
        made = new_network(model, CANVAS, REGIONS, teachers)
    assert isinstance(made, RdTwoTeachers)
    return made.eval()


def parts(count: int, seed: int = 2) -> Tensor:
    """Coarse noise, (count, 32, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (count, 8, 16, 3), np.uint8)
    return torch.from_numpy(coarse.repeat(4, axis=1).repeat(4, axis=2))


def kinds(made: RdTwoTeachers) -> dict[str, int]:
    """How many of the paper's modules a network has."""
    modules = list(made.modules())
    blocks = [module for module in modules if isinstance(module, BasicUpBlock)]
    return {
        "ms_cam": sum(isinstance(module, MsCam) for module in modules),
        "iaff": sum(isinstance(module, Iaff) for module in modules),
        "blocks": len(blocks),
        "two_branch": sum(block.convolved is not None for block in blocks),
    }


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (settings(), {"ms_cam": 8, "iaff": 1, "blocks": 3, "two_branch": 3}),  # 3 levels x 2 teachers, and 2 of iAFF
        (settings(ms_cam=False), {"ms_cam": 2, "iaff": 1, "blocks": 3, "two_branch": 3}),
        (settings(iaff=False), {"ms_cam": 6, "iaff": 0, "blocks": 3, "two_branch": 3}),
        (settings(student="plain"), {"ms_cam": 8, "iaff": 1, "blocks": 3, "two_branch": 0}),
        (settings(teachers=LITE[:1]), {"ms_cam": 3, "iaff": 0, "blocks": 3, "two_branch": 3}),
    ],
    ids=["paper", "no-ms-cam", "no-iaff", "plain", "one-teacher"],
)
def test_every_ablation_is_a_setting(model: ModelSettings, expected: dict[str, int]) -> None:
    """Each module of table 7 is there or not as the settings say, and the network still answers."""
    made = network(model)
    assert kinds(made) == expected
    with torch.inference_mode():
        given = made(parts(1))
    assert [level.shape for level in given.imitations] == [level.shape for level in given.targets]


@pytest.mark.parametrize("teachers", [("resnet18", "efficientnet_lite0"), ("resnet34", "wide_resnet50_2"), ("vgg16",)])
def test_teachers_of_any_family(teachers: tuple[TeacherName, ...]) -> None:
    """Levels of all teachers, side by side at strides 4, 8 and 16, are decoded; the paper's pair has 320, 640, 1280."""
    made = network(settings(teachers))
    with torch.inference_mode():
        given = made(parts(1))
    totals = [sum(SPECS[name].channels[k] for name in teachers) for k in range(3)]
    shapes = [(1, total, 8 >> k, 16 >> k) for k, total in enumerate(totals)]
    assert [tuple(level.shape) for level in given.imitations] == shapes
    assert [tuple(level.shape) for level in given.targets] == shapes
    assert (totals == [320, 640, 1280]) == (teachers == ("resnet34", "wide_resnet50_2"))


def test_each_teacher_has_a_branch_of_its_own() -> None:
    """The code is OCE of the fused maps; without iAFF they are added, and each teacher's map knows its levels only."""
    made = network(settings(iaff=False))
    with torch.no_grad():
        targets = made.targets(to_planes(parts(2)))
        first = [level[:, :width] for level, (width, _) in zip(targets, made.channels, strict=True)]
        second = [level[:, width:] for level, (width, _) in zip(targets, made.channels, strict=True)]
        one, other = made.embedding.branches
        torch.testing.assert_close(made.embedding(targets), made.embedding.oce(one(first) + other(second)))
        with_iaff = network(settings())
        one, other = with_iaff.embedding.branches
        assert with_iaff.embedding.fusion is not None
        fused = with_iaff.embedding.fusion(one(first), other(second))
        torch.testing.assert_close(with_iaff.embedding(targets), with_iaff.embedding.oce(fused))


@pytest.mark.parametrize(
    ("model", "signed"),
    [
        (settings(("resnet18", "resnet34")), False),
        (settings(("resnet18", "efficientnet_lite0")), True),
        (settings(("resnet18", "resnet34"), score="calibrated"), True),
    ],
    ids=["rectified", "lite", "standardised"],
)
def test_the_student_reaches_what_it_is_to_imitate(model: ModelSettings, signed: bool) -> None:
    """Where targets have values below zero, so can imitations; where ReLUs end the teachers' levels, none are."""
    made = network(model)
    made.standardise([torch.full((total,), 0.1) for total in made.totals], [torch.ones(t) for t in made.totals])
    with torch.no_grad():
        levels = made.decode(made.targets(to_planes(parts(2))))
    assert all(bool((level < 0).any()) == signed for level in levels)


def test_an_imitation_has_its_targets_length_and_the_students_direction() -> None:
    """A loss of directions leaves lengths open; residuals are taken at the targets' lengths, cosines are as before."""
    made = network(settings())
    with torch.no_grad():
        targets = made.targets(to_planes(parts(2)))
        decoded, given = made.decode(targets), made.imitate(torch.zeros(2, 3, 32, 64), targets)
    for target, raw, level in zip(targets, decoded, given, strict=True):
        torch.testing.assert_close(level.norm(dim=1), target.norm(dim=1))
        torch.testing.assert_close(torch.cosine_similarity(raw, level, dim=1), torch.ones(raw[:, 0].shape))


def test_the_loss_is_the_papers() -> None:
    """Eq. 1 and 2 in NumPy: one minus the cosine at each position, averaged per level, summed over levels."""
    made = network(settings())
    planes = to_planes(parts(6))
    stage = student_stage(made, Targets(made, planes), TRAINING, seed=0)
    with torch.no_grad():
        targets = made.targets(planes[[4, 1]])
        pairs = zip(targets, made.decode(targets), strict=True)
        found = stage.loss(torch.tensor([4, 1])).item()
    expected = 0.0
    for target, given in pairs:
        one, other = target.double().numpy(), given.double().numpy()
        lengths = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
        expected += float((1 - (one * other).sum(axis=1) / lengths).mean())
    assert found == pytest.approx(expected, rel=1e-2)  # the student runs in bfloat16


def test_a_teacher_with_longer_features_does_not_decide_alone() -> None:
    """After training both teachers' halves of each level are equally long on average, whichever was longer before, and
    a teacher's own directions are what they were; with one teacher, too."""
    model = settings(("resnet18", "efficientnet_lite0"))
    images = parts(6).numpy()

    def trained(model: ModelSettings) -> RdTwoTeachers:
        made = train(
            images,
            model.model_copy(update={"random_teachers": True}),
            TRAINING,
            canvas=CANVAS,
            regions=REGIONS,
            seed=0,
            work=None,
            progress=lambda *_: None,
        ).network
        assert isinstance(made, RdTwoTeachers)
        return made

    made = trained(model)
    planes = to_planes(torch.from_numpy(images))
    with torch.no_grad():
        scaled, as_they_come = made.targets(planes), made.features(planes, 3)
    for level, before, (first, second) in zip(scaled, as_they_come, made.channels, strict=True):
        one, other = level[:, :first].square().mean(), level[:, first:].square().mean()
        assert float(one) == pytest.approx(1, rel=0.02)
        assert float(other) == pytest.approx(1, rel=0.02)
        for part in (slice(0, first), slice(first, first + second)):
            alike = functional.cosine_similarity(level[:, part], before[:, part], dim=1)
            assert float(alike.min()) > 0.999
    assert float(trained(settings(LITE[:1])).targets(planes)[0].square().mean()) == pytest.approx(1, rel=0.02)


def test_training_is_the_papers_adam_and_lowers_the_loss() -> None:
    """Betas 0.5 and 0.999 for Adam only; fusion module and student learn, the teachers do not."""
    made = network(settings())
    planes = to_planes(parts(8))
    teachers = {name: value.clone() for name, value in made.teachers.state_dict().items()}
    before = {name: value.clone() for name, value in trainable(made).items()}
    stage = student_stage(made, Targets(made, planes), TRAINING.model_copy(update={"steps": 20}), seed=0)
    assert stage.optimiser.param_groups[0]["betas"] == (0.5, 0.999)
    losses = {f"{LOSSES}student": torch.zeros(20)}
    run_stage(stage, made, losses, Checkpoint(None, ""), lambda *_: None)
    values = losses[f"{LOSSES}student"]
    assert values[-5:].mean() < 0.8 * values[:5].mean()
    after = trainable(made)
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"embedding", "student"}
    assert all(torch.equal(value, made.teachers.state_dict()[name]) for name, value in teachers.items())
    sgd = TRAINING.model_copy(update={"optimiser": "sgd"})
    assert "betas" not in student_stage(made, Targets(made, planes), sgd, seed=0).optimiser.param_groups[0]


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms' statistics and Adam's moments are kept: a run that stops after step 3 goes on as if it had not."""
    monkeypatch.setattr(checkpoint_module, "SECONDS_BETWEEN", 0.0)
    planes = to_planes(parts(8))

    def run(made: RdTwoTeachers, checkpoint: Checkpoint, stop: int) -> None:
        def progress(_stage: str, done: int, _total: int) -> None:
            if done == stop:
                raise InterruptedError

        stage = student_stage(made, Targets(made, planes), TRAINING, seed=0)
        run_stage(stage, made, {f"{LOSSES}student": torch.zeros(6)}, checkpoint, progress)

    whole, broken, resumed = network(settings()), network(settings()), network(settings())
    run(whole, Checkpoint(None, ""), stop=0)
    with pytest.raises(InterruptedError):
        run(broken, Checkpoint(tmp_path, "same"), stop=4)
    saved = Checkpoint(tmp_path, "same").load()
    assert saved is not None
    assert saved.step == 3
    resumed.load_state_dict({name: saved.tensors[name] for name in trainable(resumed)}, strict=False)
    run(resumed, Checkpoint(tmp_path, "same"), stop=0)
    expected = trainable(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trainable(resumed).items())


def test_the_score_is_the_highest_cell_of_the_smoothed_sum() -> None:
    """In NumPy and OpenCV: levels brought to the first one's size, added, smoothed by a Gaussian of one cell."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 6, 8, 16), (2, 9, 4, 8), (2, 12, 2, 4)]
    targets, imitations = ([torch.rand(shape, generator=generator) for shape in shapes] for _ in range(2))
    made = NetworkOutputs(targets, imitations, None, torch.zeros(2, 3, 32, 64), None, None)
    part_score, region_scores, maps = paper_tail(network(settings()), CANVAS, REGIONS, (1.0, 1.0))(made)
    expected = np.zeros((2, 8, 16))
    for target, imitation in zip(targets, imitations, strict=True):
        one, other = target.double().numpy(), imitation.double().numpy()
        level = 1 - (one * other).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
        expected += np.stack([cv2.resize(part, (16, 8), interpolation=cv2.INTER_LINEAR) for part in level])
    smooth = np.stack([cv2.GaussianBlur(part, (7, 7), 1.0, borderType=cv2.BORDER_REFLECT_101) for part in expected])
    np.testing.assert_allclose(maps.numpy(), smooth, rtol=1e-4)
    left, right = smooth[:, :, :6].max(axis=(1, 2)), smooth[:, 2:6, 8:14].max(axis=(1, 2))
    np.testing.assert_allclose(region_scores.numpy(), np.stack([left, right], axis=1), rtol=1e-4)
    np.testing.assert_allclose(part_score.numpy(), np.maximum(left, right), rtol=1e-4)


@pytest.mark.parametrize("model", [settings(), settings(LITE[:1], student="plain")], ids=["paper", "ablated"])
def test_a_saved_engine_answers_alike(model: ModelSettings, tmp_path: Path) -> None:
    """What is written and read again has the same weights and answers, without any teacher's weights beside it."""
    engine = FusedEngine(network(model), model, CANVAS, REGIONS, ScoringConstants((1.0, 1.0)))
    save_fused(engine, tmp_path / "network.safetensors")
    loaded = load_fused(tmp_path / "network.safetensors")
    weights, again = engine.network.state_dict(), loaded.network.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    with torch.inference_mode():
        expected, found = engine(parts(2)), loaded(parts(2))
    assert [tuple(value.shape) for value in found] == [(2,), (2, 2), (2, 8, 16)]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)  # convolutions this narrow round by where their weights lie in memory


def test_what_the_settings_leave_out_is_the_papers() -> None:
    """Rate and schedule are the family's where a preset does not say; what it says counts, and reads back the same."""
    model = ModelSettings(family="rd_two_teachers")
    assert (model.attention, model.decoder) == (False, False)
    assert (model.quick.learning_rate, model.quick.schedule) == (5e-3, "cosine")
    own = ModelSettings.model_validate(
        {
            "family": "rd_two_teachers",
            "quick": {"steps": 7, "decoder_steps": 0, "learning_rate": 0.1},
        }
    )
    assert (own.quick.steps, own.quick.learning_rate, own.quick.schedule) == (7, 0.1, "cosine")
    assert ModelSettings.model_validate(own.model_dump(mode="json")) == own


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"quick": {"steps": 3, "decoder_steps": 0, "batch": 1}},
            "quick.batch: family rd_two_teachers needs at least 2",
        ),
        ({"decoder": True}, "decoder belong to family dtkd"),
        ({"rd_two_teachers": {"width": 4}}, "greater than or equal to 8"),
        ({"rd_two_teachers": {"reduction": 0}}, "greater than or equal to 1"),
    ],
)
def test_settings_that_the_family_cannot_have(given: dict[str, object], message: str) -> None:
    """A batch of one, which the pooled branch of MS-CAM cannot be trained on, and others are refused in one line."""
    with pytest.raises(ValidationError, match=message):
        ModelSettings.model_validate({"family": "rd_two_teachers", **given})
