"""What teacher levels are standardised by."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from calibration.targets import LEAST_DEVIATION, channel_statistics, standards
from engines.networks.teacher_student import TeacherStudent


class FakeTeachers(nn.Module):
    """One level: two teachers that give the planes' channels, one all but silent, the second teacher's larger."""

    gains = (1.0, 2.0, 1e-4, 100.0, 200.0, 30.0)

    def __init__(self) -> None:
        super().__init__()
        self.channels = ((3, 3),)
        self.register_buffer("gain", torch.tensor(self.gains)[:, None, None])
        self.gain: Tensor

    def targets(self, planes: Tensor) -> list[Tensor]:
        """The planes, times each channel's gain."""
        return [torch.cat([planes, planes], dim=1) * self.gain]


def test_a_channel_that_hardly_fires_on_good_parts_is_not_blown_up() -> None:
    """It is divided by a share of what its teacher's channels vary by, all others by their own deviations."""
    network = cast("TeacherStudent", FakeTeachers())
    planes = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    own, used = channel_statistics(network, planes)[1][0], standards(network, planes)[1][0]
    alive = [0, 1, 3, 4, 5]
    assert used[alive] == pytest.approx(own[alive])
    assert float(used[2]) == pytest.approx(LEAST_DEVIATION * float(own[:3].square().mean().sqrt()))
    assert own[2] < 0.01 * used[2]
