"""Teachers: the right weights or a clear refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.datasets
import timm
import torch

from engines import teachers
from engines.errors import WeightsError
from engines.preprocess import CENTRED, check_part_image, normalise, to_grey, to_planes
from engines.teachers import SPECS, bare_teacher, load_teacher

FOLDED = Path(__file__).parents[2].parent / "shared" / "weights"
BUILDINGS = {442, 497, 663, 668, 698, 832}  # bell cote, church, monastery, mosque, palace, stupa


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1"])
def test_a_lite_teacher_knows_a_palace(name: str) -> None:
    """The package's weights in timm's network see a building of its kind in the photograph of a Chinese palace."""
    state, _ = teachers._lite_state(name)
    network = timm.create_model(f"tf_{name}", pretrained=False)
    network.load_state_dict(state)
    photograph = sklearn.datasets.load_sample_image("china.jpg")
    part = cv2.resize(photograph, (224, 224), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        planes = normalise(to_planes(torch.from_numpy(part[None])), CENTRED)
        best = int(network.eval()(planes).argmax())
    assert best in BUILDINGS


def test_features_are_those_of_the_whole_network() -> None:
    """Cutting a network into levels changes nothing: the levels equal timm's own feature maps."""
    teacher = load_teacher("efficientnet_lite0", 4)
    state, _ = teachers._lite_state("efficientnet_lite0")
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    whole.load_state_dict(state)
    planes = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = whole.eval().forward_intermediates(planes, indices=[1, 2, 3, 4], intermediates_only=True)
        got = teacher(planes)
    assert [level.shape[1] for level in got] == list(SPECS["efficientnet_lite0"].channels)
    for level, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(level, wanted)


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if spec.family != "dinov2"))
def test_every_teacher_is_cut_at_its_strides(name: str) -> None:
    """Level k of each convolutional backbone has the channels of the table and stride 4, 8, 16."""
    teacher = bare_teacher(name, 3).to_empty(device="cpu")
    with torch.inference_mode():
        levels = teacher(torch.zeros(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, side, side) for channels, side in zip(SPECS[name].channels[:3], (16, 8, 4), strict=True)
    ]


def test_a_missing_file_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its file a torchvision teacher is refused: what is missing, where to put it, which station needs none."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(
        WeightsError, match=r"vgg16-397923af\.pth is missing; put it .* station smdc needs no such file"
    ):
        load_teacher("vgg16", 3, tmp_path)


def test_a_file_that_is_not_its_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file under the right name with other content is refused before it is read."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"not the weights")
    with pytest.raises(WeightsError, match="is not the one in its name"):
        load_teacher("resnet18", 3, tmp_path)


def test_the_folded_resnet18_is_accepted_to_level_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file without layer4 serves three levels, with its hash recorded; a fourth is refused."""
    if not FOLDED.is_dir():
        pytest.skip("../shared/weights is absent")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    teacher = load_teacher("resnet18", 3, FOLDED)
    assert teacher.weights is not None
    assert teacher.weights.sha256 == teachers.FOLDED_RESNET18_SHA256
    with pytest.raises(WeightsError, match=r"absent; model\.levels may not"):
        load_teacher("resnet18", 4, FOLDED)
    changed = tmp_path / teachers.FOLDED_RESNET18
    shutil.copyfile(FOLDED / teachers.FOLDED_RESNET18, changed)
    changed.chmod(0o644)
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="not the known one"):
        load_teacher("resnet18", 3, tmp_path)


def test_a_teacher_never_trains() -> None:
    """Training mode leaves a teacher's batch norms alone, and no weight asks for a gradient."""
    teacher = load_teacher("efficientnet_lite0", 1).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_grey_is_luma_and_wrong_images_are_refused() -> None:
    """Grey weighs the colours by BT.601; an image of another size or type is refused by name of both."""
    part = np.zeros((32, 64, 3), np.uint8)
    part[..., 1] = 255
    grey = to_grey(to_planes(torch.from_numpy(part[None])))
    torch.testing.assert_close(grey, torch.full((1, 32, 64), 0.587))
    with pytest.raises(ValueError, match=r"must be \(32, 32, 3\) uint8, got \(32, 64, 3\)"):
        check_part_image(part, 32, 32)
