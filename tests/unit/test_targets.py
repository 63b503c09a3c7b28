"""What teacher levels are standardised by."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from calibration.targets import LEAST_DEVIATION, channel_statistics, standards
from engines.networks.teacher_student import TeacherStudent


class FakeTeachers(nn.Module):
    """One level: the planes' three channels, the last one all but silent."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor([1.0, 2.0, 1e-4])[:, None, None])
        self.gain: Tensor

    def targets(self, planes: Tensor) -> list[Tensor]:
        """The planes, times each channel's gain."""
        return [planes * self.gain]


def test_a_channel_that_hardly_fires_on_good_parts_is_not_blown_up() -> None:
    """It is divided by a share of what its level's channels vary by, the others by their own deviations."""
    network = cast("TeacherStudent", FakeTeachers())
    planes = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    own, used = channel_statistics(network, planes)[1][0], standards(network, planes)[1][0]
    assert used[:2] == pytest.approx(own[:2])
    assert float(used[2]) == pytest.approx(LEAST_DEVIATION * float(own.square().mean().sqrt()))
    assert own[2] < 0.01 * used[2]
