"""Family rd_feature_mask: what its student is made of and looks at, and how its training masks, stops and resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from calibration import checkpoint as checkpoint_module
from calibration.checkpoint import Checkpoint
from calibration.families import student_stage
from calibration.stages import LOSSES, Stage, run_stage, trainable
from calibration.targets import Targets, standards
from engines.networks.families import new_network, paper_tail
from engines.networks.fused import FusedEngine, load_fused, save_fused
from engines.networks.rd_feature_mask import RdFeatureMask
from engines.networks.scconv import ScConv
from engines.networks.simam import SimAm
from engines.networks.tails import ReverseTail
from engines.scoring import ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TeacherName, TrainingSettings
from engines.teachers import SPECS, Teacher, WeightsInfo, untrained_stages

CANVAS = CanvasSettings(height_px=32, width_px=64)
REGIONS = [RegionSettings(name="all", top_px=0, left_px=0, height_px=32, width_px=64)]
STEPS = 6
TRAINING = TrainingSettings(steps=STEPS, decoder_steps=0, batch=4)
LITE: TeacherName = "efficientnet_lite0"


def settings(score: str = "paper", **options: object) -> ModelSettings:
    """Settings of the family, small."""
    return ModelSettings.model_validate(
        {
            "family": "rd_feature_mask",
            "score": score,
            "discriminator": False,
            "rd_feature_mask": {"width": 16, **options},
        }
    )


def network(model: ModelSettings, name: TeacherName = LITE) -> RdFeatureMask:
    """An untrained network around a teacher that knows nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        teacher = Teacher(name, untrained_stages(name, 3), WeightsInfo("none", "", ""))
        made = new_network(model, CANVAS, REGIONS, [teacher])
    assert isinstance(made, RdFeatureMask)
    return made.eval()


def parts(count: int, seed: int = 2) -> Tensor:
    """Coarse noise, (count, 32, 64, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(60, 200, (count, 8, 16, 3), np.uint8)
    return torch.from_numpy(coarse.repeat(4, axis=1).repeat(4, axis=2))


def planes(count: int) -> Tensor:
    """The same as planes, (count, 3, 32, 64) of 0..255."""
    return parts(count).permute(0, 3, 1, 2).float()


def stage_of(made: RdFeatureMask, count: int = 10, seed: int = 0) -> Stage:
    """Its training on so many parts."""
    return student_stage(made, Targets(made, planes(count)), TRAINING, seed)


def kinds(made: nn.Module) -> set[type[nn.Module]]:
    """What a network is made of."""
    return {type(module) for module in made.modules()}


@pytest.mark.parametrize("name", [LITE, "resnet18", "vgg16", "resnet50"])
def test_the_student_gives_the_teachers_levels(name: TeacherName) -> None:
    """Imitations and targets have the teacher's channels at strides 4, 8 and 16, and equal lengths."""
    made = network(settings().model_copy(update={"teachers": (name,)}), name)
    with torch.inference_mode():
        given = made(parts(2))
    shapes = [(2, width, 8 >> k, 16 >> k) for k, width in enumerate(SPECS[name].channels[:3])]
    assert [tuple(level.shape) for level in given.targets] == shapes
    assert [tuple(level.shape) for level in given.imitations] == shapes
    for target, imitation in zip(given.targets, given.imitations, strict=True):
        torch.testing.assert_close(imitation.norm(dim=1), target.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_the_student_sees_features_alone() -> None:
    """Reverse distillation: what the student gives follows from each of the teacher's levels, not from the image."""
    made = network(settings())
    with torch.inference_mode():
        targets = made.targets(planes(1))
        given = made.imitate(planes(1), targets)
        assert all(torch.equal(a, b) for a, b in zip(given, made.imitate(planes(1) * 0, targets), strict=True))
        for k in range(3):
            others = [level + torch.rand_like(level) if k == j else level for j, level in enumerate(targets)]
            assert not any(torch.equal(a, b) for a, b in zip(made.imitate(planes(1), others), given, strict=True))


def test_each_ablation_takes_out_its_module() -> None:
    """Settings scconv, simam and fmm leave exactly that module out; `width` scales what is trained."""
    full = network(settings())
    assert {ScConv, SimAm} <= kinds(full)
    assert ScConv not in kinds(network(settings(scconv=False)))
    assert SimAm not in kinds(network(settings(simam=False)))
    assert all(fmm.generator is not None for fmm in full.feature_masks)
    assert all(fmm.generator is None for fmm in network(settings(fmm=False)).feature_masks)
    wider = network(settings(width=32))
    assert [fmm.align.in_channels for fmm in wider.feature_masks] == [8, 16, 32]
    assert [fmm.align.in_channels for fmm in full.feature_masks] == [4, 8, 16]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"teachers": [LITE, "efficientnet_lite1"]}, "family rd_feature_mask has one teacher, got 2"),
        ({"decoder": True}, "attention and decoder belong to family dtkd"),
        ({"rd_feature_mask": {"width": 100}}, "multiple of 8"),
        ({"rd_feature_mask": {"mask_rate": 1.0}}, "less than 1"),
        (
            {"quick": {"steps": 3, "decoder_steps": 0, "batch": 1}},
            "quick.batch: family rd_feature_mask needs at least 2",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, object], complaint: str) -> None:
    """One line says what is wrong."""
    with pytest.raises(ValidationError, match=complaint):
        ModelSettings.model_validate({"family": "rd_feature_mask", **changed})


@pytest.mark.parametrize("score", ["paper", "calibrated"])
def test_training_brings_the_student_nearer(score: str) -> None:
    """After a few steps held-back parts are imitated better than before; every trained weight has moved."""
    made = network(settings(score, validate_every=2))
    if score == "calibrated":
        with torch.no_grad():
            made.standardise(*standards(made, Targets(made, planes(10))))
    stage = stage_of(made)
    assert stage.images == 9
    assert stage.validation is not None
    first = {name: value.detach().clone() for name, value in made.named_parameters() if value.requires_grad}
    with torch.no_grad():
        before = stage.validation.loss(stage.validation.images).item()
    run_stage(stage, made, {f"{LOSSES}student": torch.zeros(STEPS)}, Checkpoint(None, ""), lambda *_: None)
    with torch.no_grad():
        after = stage.validation.loss(stage.validation.images).item()
    assert after < 0.95 * before
    last = dict(made.named_parameters())
    assert [name for name, value in first.items() if torch.equal(value, last[name])] == []


def test_only_training_masks() -> None:
    """Each call of the loss masks anew, by the seed; the validation, like the line, masks nothing."""
    made = network(settings())
    chosen = torch.arange(4)
    stage = stage_of(made)
    drawn = [stage.loss(chosen).item() for _ in range(3)]
    assert len(set(drawn)) == 3
    assert [stage_of(made).loss(chosen).item(), stage_of(made, seed=1).loss(chosen).item()] != [drawn[0]] * 2
    again = stage_of(made)
    assert [again.loss(chosen).item() for _ in range(3)] == drawn
    assert stage.validation is not None
    judged = [stage.validation.loss(stage.validation.images).item() for _ in range(2)]
    assert judged[0] == judged[1]
    unmasked = stage_of(network(settings(mask_rate=0.0)))
    assert len({unmasked.loss(chosen).item() for _ in range(2)}) == 1


def test_parts_that_choose_the_weights_are_not_trained_on() -> None:
    """Every part serves either the steps or the validation."""
    made = network(settings())
    seen: list[int] = []

    class Watched(Targets):
        def __call__(self, chosen: Tensor) -> list[Tensor]:
            seen.extend(chosen.tolist())
            return super().__call__(chosen)

    stage = student_stage(made, Watched(made, planes(10)), TRAINING, seed=0)
    assert stage.validation is not None
    stage.loss(torch.arange(stage.images))
    assert sorted([*seen, *stage.validation.images.tolist()]) == list(range(10))


def test_the_loss_is_the_sum_of_mean_distances() -> None:
    """Eq. 13 where nothing is masked, and Eq. 14's L2 as a weight decay of twice lambda_R."""
    made = network(settings(mask_rate=0.0, lambda_r=0.01))
    stage = stage_of(made)
    assert stage.validation is not None
    with torch.no_grad():
        found = stage.validation.loss(stage.validation.images).item()
        given = made(parts(10)[stage.validation.images])
    expected = 0.0
    for target, imitation in zip(given.targets, given.imitations, strict=True):
        one, other = target.double().numpy(), imitation.double().numpy()
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        expected += (1 - (one * other).sum(axis=1) / lengths).mean()
    assert found == pytest.approx(expected, rel=1e-4)
    assert [group["weight_decay"] for group in stage.optimiser.param_groups] == [0.02]


def test_training_ends_when_patience_does() -> None:
    """A student that gets no better stops early, with the weights that held-back parts liked best."""
    made = network(settings(validate_every=1, patience=2))
    stage = stage_of(made)
    object.__setattr__(stage, "rate", lambda _step: 0.0)  # batch statistics still move
    losses = {f"{LOSSES}student": torch.zeros(STEPS)}
    assert stage.validation is not None
    judged: list[float] = []
    judge = stage.validation.loss
    rising = iter(range(STEPS))
    object.__setattr__(stage.validation, "loss", lambda images: judged.append(0) or judge(images) + 10 * next(rising))
    run_stage(stage, made, losses, Checkpoint(None, ""), lambda *_: None)
    assert len(judged) == 3
    assert len(losses[f"{LOSSES}student"]) == 3


class Killed(Exception):
    """The process ended here."""


def test_a_broken_training_resumes_with_the_same_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again from its checkpoint it ends with the very weights of an unbroken run."""
    monkeypatch.setattr(checkpoint_module, "SECONDS_BETWEEN", 0.0)

    def run(made: RdFeatureMask, checkpoint: Checkpoint, ends_at: int | None) -> dict[str, Tensor]:
        def progress(_name: str, done: int, _total: int) -> None:
            if done == ends_at:
                raise Killed

        run_stage(stage_of(made), made, {f"{LOSSES}student": torch.zeros(STEPS)}, checkpoint, progress)
        return trainable(made)

    model = settings(validate_every=2)
    whole = run(network(model), Checkpoint(None, ""), None)
    with pytest.raises(Killed):
        run(network(model), Checkpoint(tmp_path, "same"), 4)
    saved = Checkpoint(tmp_path, "same").load()
    assert saved is not None
    assert saved.step == 3
    resumed = network(model)
    resumed.load_state_dict({name: saved.tensors[name] for name in trainable(resumed)}, strict=False)
    ended = run(resumed, Checkpoint(tmp_path, "same"), None)
    assert all(torch.equal(ended[name], value) for name, value in whole.items())


def test_a_saved_engine_answers_alike(tmp_path: Path) -> None:
    """Its network and the tail of reverse distillation come back from the file."""
    model = settings()
    made = network(model)
    engine = FusedEngine(made, model, CANVAS, REGIONS, ScoringConstants((1.0,)))
    save_fused(engine, tmp_path / "network.safetensors")
    with torch.inference_mode():
        expected, again = engine(parts(2)), load_fused(tmp_path / "network.safetensors")(parts(2))
    assert expected[2].shape == (2, 8, 16)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert isinstance(paper_tail(made, CANVAS, REGIONS, (1.0,)), ReverseTail)
