"""Teachers that are compiled for the learning of good parts: the same features, for any number of images."""

from __future__ import annotations

import pytest
import torch

from calibration.compiled_teachers import CompiledTeachers, features_of
from engines.networks.families import new_network
from engines.networks.teacher_network import TeacherNetwork
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import load_teachers

CANVAS = CanvasSettings(height_px=64, width_px=96)
MODEL = ModelSettings.model_validate({"score": "memory"})
REGIONS = (RegionSettings(name="part", top_px=0, left_px=0, height_px=64, width_px=96),)


@pytest.fixture(scope="module")
def network() -> TeacherNetwork:
    """The shipped teachers around an empty memory."""
    return new_network(MODEL, CANVAS, REGIONS, load_teachers(MODEL, CANVAS, 0)).eval()


def test_features_are_the_networks_for_any_number_of_images(network: TeacherNetwork) -> None:
    """Three images of a graph for two at once, all levels and the first alone; a level too many is refused."""
    compiled = CompiledTeachers(network, CANVAS, MODEL.teacher_levels)
    planes = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    for levels in (1, MODEL.teacher_levels):
        with torch.no_grad():
            expected = network.features(planes, levels)
        found = compiled(planes, levels)
        assert len(found) == levels
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    with pytest.raises(ValueError, match="were compiled"):
        compiled(planes, MODEL.teacher_levels + 1)


def test_few_images_are_not_worth_a_compilation(network: TeacherNetwork) -> None:
    """The network's own features serve them; many get compiled ones."""
    levels = MODEL.teacher_levels
    assert features_of(network, CANVAS, levels, 10) == network.features
    assert isinstance(features_of(network, CANVAS, levels, 2000), CompiledTeachers)
