"""`tools/teach_discriminator.py`: the stations that it draws, and the networks that it writes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import teach_discriminator
import torch
from teaching.drawn_stations import draw_station

from calibration import discriminate
from calibration.discriminate import take_up
from engines.networks.discriminator import MEMBERS, Discriminator
from engines.settings import CanvasSettings, RegionSettings

CANVAS = CanvasSettings(height_px=64, width_px=64)
WHOLE = RegionSettings(name="whole", top_px=0, left_px=0, height_px=64, width_px=64)


def test_drawn_stations_differ_and_their_parts_differ_a_little() -> None:
    """Parts of one station are alike beside those of another, and no two are the same; outside of them is black."""
    stations = [draw_station(np.random.default_rng(seed), 6, 64, 96) for seed in range(12)]
    within = [float(np.abs(each.parts[0].astype(float) - each.parts[1]).mean()) for each in stations]
    between = [float(np.abs(one.parts[0].astype(float) - other.parts[0]).mean()) for one, other in pairwise(stations)]
    assert min(within) > 0
    assert np.median(between) > 3 * np.median(within)
    assert {each.posed for each in stations} == {True, False}
    cut = [each for each in stations if not each.inside.all()]
    assert cut
    assert all((each.parts[:, ~each.inside] == 0).all() for each in cut)


def test_it_writes_networks_that_calibration_takes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file holds every member, each of its own, and the same seed gives the same file."""
    files = [tmp_path / name for name in ("one.safetensors", "again.safetensors")]
    for file in files:
        command = ["--out", str(file), "--stations", "2", "--steps", "2", "--seed", "5"]
        assert teach_discriminator.main(command) == 0
    assert f"{MEMBERS} networks" in capsys.readouterr().out
    assert files[0].read_bytes() == files[1].read_bytes()
    monkeypatch.setattr(discriminate, "TAUGHT", files[0])
    discriminator = Discriminator(CANVAS, [WHOLE])
    take_up(discriminator)
    first, second = (member.head.weight for member in discriminator.members)
    assert not torch.equal(first, second)
