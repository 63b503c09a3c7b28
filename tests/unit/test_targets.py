"""What teacher levels are standardised by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from calibration.targets import LEAST_DEVIATION, Targets, channel_statistics, standards
from engines.networks.families import new_network
from engines.networks.teacher_student import TeacherStudent
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import load_teachers

CANVAS = CanvasSettings(height_px=32, width_px=32)
WHOLE = RegionSettings(name="whole", top_px=0, left_px=0, height_px=32, width_px=32)


class FakeTeachers(nn.Module):
    """One level: two teachers that give the planes' channels, one all but silent, the second teacher's larger."""

    gains = (1.0, 2.0, 1e-4, 100.0, 200.0, 30.0)

    def __init__(self) -> None:
        super().__init__()
        self.channels = ((3, 3),)
        self.model = SimpleNamespace(levels=1)
        self.register_buffer("gain", torch.tensor(self.gains)[:, None, None])
        self.gain: Tensor

    def features(self, planes: Tensor, _levels: int) -> list[Tensor]:
        """The planes, times each channel's gain."""
        return [torch.cat([planes, planes], dim=1) * self.gain]


def test_a_channel_that_hardly_fires_on_good_parts_is_not_blown_up() -> None:
    """It is divided by a share of what its teacher's channels vary by, all others by their own deviations."""
    network = cast("TeacherStudent", FakeTeachers())
    planes = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = Targets(network, planes)
    own, used = channel_statistics(targets)[1][0], standards(network, targets)[1][0]
    alive = [0, 1, 3, 4, 5]
    assert used[alive] == pytest.approx(own[alive])
    assert float(used[2]) == pytest.approx(LEAST_DEVIATION * float(own[:3].square().mean().sqrt()))
    assert own[2] < 0.01 * used[2]


def test_features_are_computed_once_and_standardised_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics and training look the same features up; what is standardised later shows in what is given then."""
    network = new_network(ModelSettings(), CANVAS, [WHOLE], load_teachers(ModelSettings(), CANVAS, 0)).eval()
    assert isinstance(network, TeacherStudent)
    planes = 255 * torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    real = network.features
    monkeypatch.setattr(network, "features", lambda planes, levels: seen.append(len(planes)) or real(planes, levels))
    targets = Targets(network, planes)
    before = sum(seen)
    network.standardise(*standards(network, targets))
    given = targets(torch.tensor([3, 17]))
    assert sum(seen) == before
    with torch.no_grad():
        wanted = network.targets(planes[[3, 17]])
    for one, other in zip(given, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
        assert 0.5 < float(one.std()) < 2
