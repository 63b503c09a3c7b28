"""Family stpm: its formulas against NumPy, a student of the teacher's shape, and what its training keeps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from calibration.checkpoint import Checkpoint
from calibration.families import student_stage
from calibration.stages import LOSSES, run_stage
from calibration.targets import Targets, standards
from engines.networks.families import new_network, paper_tail
from engines.networks.fused import FusedEngine, load_fused, save_fused
from engines.networks.outputs import NetworkOutputs
from engines.networks.stpm import StpmNetwork, StpmTail, level_loss
from engines.scoring import ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, StpmSettings, TeacherName, TrainingSettings
from engines.teachers import SPECS, Teacher, WeightsInfo, untrained_stages

CANVAS = CanvasSettings(height_px=32, width_px=64)
REGIONS = [
    RegionSettings(name="left", top_px=0, left_px=0, height_px=32, width_px=24),
    RegionSettings(name="right", top_px=8, left_px=32, height_px=16, width_px=24),
]
TRAINING = TrainingSettings(steps=6, decoder_steps=0, batch=4, optimiser="sgd", learning_rate=0.4)


def stpm(score: str = "paper", **options: object) -> ModelSettings:
    """Settings of the family with a small teacher."""
    return ModelSettings.model_validate({"family": "stpm", "score": score, "discriminator": False, "stpm": options})


def random_teacher(name: TeacherName, seed: int = 0) -> Teacher:
    """A teacher that knows nothing, of the shape of a real one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Teacher(name, untrained_stages(name, 3), WeightsInfo("none", "", ""))


def network(model: ModelSettings, name: TeacherName = "efficientnet_lite0") -> StpmNetwork:
    """An untrained network around a teacher that knows nothing."""
    teacher = random_teacher(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = new_network(model, CANVAS, REGIONS, [teacher])
    assert isinstance(made, StpmNetwork)
    return made.eval()


def parts(count: int) -> Tensor:
    """Coarse noise, (count, 32, 64, 3) uint8."""
    rng = np.random.default_rng(2)
    coarse = rng.integers(60, 200, (count, 8, 16, 3), np.uint8)
    return torch.from_numpy(coarse.repeat(4, axis=1).repeat(4, axis=2))


def outputs(levels: int = 3) -> NetworkOutputs:
    """Random features of the first `levels` levels of two parts."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 6, 8, 16), (2, 9, 4, 8), (2, 12, 2, 4)][-levels:]
    targets, imitations = ([torch.rand(shape, generator=generator) for shape in shapes] for _ in range(2))
    planes = torch.zeros(2, 3, 32, 64)
    return NetworkOutputs(targets, imitations, None, planes, None, None)


def numpy_map(made: NetworkOutputs) -> np.ndarray:
    """Eq. 1 and 4 written out for each part: (N, 8, 16)."""
    maps = np.ones((2, 8, 16))
    for target, imitation in zip(made.targets, made.imitations, strict=True):
        one, other = target.numpy().astype(np.float64), imitation.numpy().astype(np.float64)
        one /= np.sqrt((one**2).sum(axis=1, keepdims=True))
        other /= np.sqrt((other**2).sum(axis=1, keepdims=True))
        level = 0.5 * ((one - other) ** 2).sum(axis=1)
        maps *= np.stack([cv2.resize(part, (16, 8), interpolation=cv2.INTER_LINEAR) for part in level])
    return maps


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_map_is_the_product_of_the_levels(levels: int) -> None:
    """Anomaly map, region scores and part score are those of Eq. 1 and 4, also where fine levels are left out."""
    made = outputs(levels)
    part_score, region_scores, maps = StpmTail(CANVAS, REGIONS)(made)
    expected = numpy_map(made)
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-4)
    left, right = expected[:, :, :6].max(axis=(1, 2)), expected[:, 2:6, 8:14].max(axis=(1, 2))
    np.testing.assert_allclose(region_scores.numpy(), np.stack([left, right], axis=1), rtol=1e-4)
    np.testing.assert_allclose(part_score.numpy(), np.maximum(left, right), rtol=1e-4)


def test_the_level_loss_is_one_minus_the_cosine() -> None:
    """Half the squared distance of unit vectors, whatever their length; no digits are lost where both nearly agree."""
    made = outputs()
    cosine = torch.nn.functional.cosine_similarity(made.targets[0], made.imitations[0], dim=1).unsqueeze(1)
    torch.testing.assert_close(level_loss(made.targets[0], 7 * made.imitations[0]), 1 - cosine)
    one = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    near = torch.tensor([1.0, 1e-4]).reshape(1, 2, 1, 1)
    assert level_loss(one, near).item() == pytest.approx(0.5e-8, rel=1e-3)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "vgg16"])
def test_the_student_has_the_teachers_shape(name: TeacherName) -> None:
    """The student has the teacher's weights by name and shape, random ones, and its levels at strides 4, 8 and 16."""
    made = network(stpm().model_copy(update={"teachers": (name,)}), name)
    teacher = made.teachers[0].stages.state_dict()
    student = made.student.stages.state_dict()
    assert {key: value.shape for key, value in student.items()} == {key: value.shape for key, value in teacher.items()}
    assert all(weight.requires_grad for weight in made.student.parameters())
    widest = max(student, key=lambda key: student[key].numel())
    assert not torch.equal(student[widest], teacher[widest])
    with torch.inference_mode():
        given = made(parts(1))
    shapes = [(1, width, 8 >> k, 16 >> k) for k, width in enumerate(SPECS[name].channels[:3])]
    assert [tuple(level.shape) for level in given.imitations] == shapes
    assert [tuple(level.shape) for level in given.targets] == shapes


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("score", ["paper", "calibrated"])
def test_training_lowers_the_loss_and_keeps_the_best(score: str, name: TeacherName) -> None:
    """The student comes nearer to the teacher; of its steps the one that held-back parts like best remains."""
    made = network(stpm(score, validate_every=1).model_copy(update={"teachers": (name,)}), name)
    planes = parts(10).permute(0, 3, 1, 2).float()
    if score == "calibrated":
        with torch.no_grad():
            made.standardise(*standards(made, Targets(made, planes)))
    training = TRAINING if score == "paper" else TrainingSettings(steps=6, decoder_steps=0, batch=4)
    stage = student_stage(made, Targets(made, planes), training, seed=0)
    assert stage.images == 8
    assert stage.validation is not None
    held_back, seen = stage.validation.images, []
    judge = stage.validation.loss
    object.__setattr__(stage.validation, "loss", lambda images: seen.append(judge(images).item()) or judge(images))
    with torch.no_grad():
        before = judge(held_back).item()
    run_stage(stage, made, {f"{LOSSES}student": torch.zeros(6)}, Checkpoint(None, ""), lambda *_: None)
    with torch.no_grad():
        after = judge(held_back).item()
    assert len(seen) == 6
    assert after == min(seen) < before


def test_a_level_of_weight_zero_is_left_out(tmp_path: Path) -> None:
    """Only levels that count are trained and scored; the map keeps its size; a saved engine answers alike."""
    model = stpm(level_weights=(0.0, 1.0, 0.5))
    made = network(model)
    stage = student_stage(made, Targets(made, parts(5).permute(0, 3, 1, 2).float()), TRAINING, seed=0)
    stage.loss(torch.tensor([0, 1])).backward()
    engine = FusedEngine(made, model, CANVAS, REGIONS, ScoringConstants((1.0, 1.0)))
    save_fused(engine, tmp_path / "network.safetensors")
    with torch.inference_mode():
        assert [level.shape[2] for level in made(parts(1)).targets] == [4, 2]
        expected, again = engine(parts(2)), load_fused(tmp_path / "network.safetensors")(parts(2))
    assert expected[2].shape == (2, 8, 16)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert isinstance(paper_tail(made, CANVAS, REGIONS, (1.0, 1.0)), StpmTail)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teachers": ("resnet18", "resnet34")}, "family stpm has one teacher, got 2"),
        ({"decoder": True}, "decoder belong to family dtkd"),
        ({"stpm": {"level_weights": (0, 0, 0)}}, "at least one must be above 0"),
        ({"stpm": {"validation_share": 1.0}}, "less than 1"),
    ],
)
def test_settings_that_the_family_cannot_have(given: dict[str, object], message: str) -> None:
    """Two teachers, a decoder, no level or nothing to train on are refused in one line."""
    with pytest.raises(ValidationError, match=message):
        ModelSettings.model_validate({"family": "stpm", **given})


def test_settings_survive_the_bundle() -> None:
    """What is left to the family's defaults reads back the same; an unknown option is refused by name."""
    model = ModelSettings(family="stpm")
    assert (model.teachers, model.attention, model.decoder) == (("efficientnet_lite0",), False, False)
    assert ModelSettings.model_validate(model.model_dump(mode="json")) == model
    assert model.stpm == StpmSettings()
    assert (model.quick.optimiser, model.full.learning_rate) == ("sgd", 0.4)
