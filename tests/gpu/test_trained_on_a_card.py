"""Calibration's training on a real card: same seed, same weights; what comes back judges like any other network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration import checkpoint as checkpoint_module
from calibration.detection import Asked
from calibration.device import device_name, training_device
from calibration.fit_scores import fit
from calibration.train import Trained, train
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings

CANVAS = CanvasSettings(height_px=64, width_px=64)
REGIONS = [RegionSettings(name="all", top_px=8, left_px=8, height_px=48, width_px=48, patches=((2, 2), (1, 1)))]
TINY = TrainingSettings(steps=6, decoder_steps=4, discriminator_steps=4, batch=4)
FAMILIES: list[dict[str, Any]] = [
    {},
    {"family": "stpm", "teachers": ["resnet18"]},
    {"family": "rd_two_teachers"},
    {"family": "rd_feature_mask"},
]
IMAGES = np.random.default_rng(0).integers(90, 160, (12, 64, 64, 3), np.uint8)


@pytest.fixture
def card() -> torch.device:
    """A CUDA GPU that torch can use, or a skip."""
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA GPU")
    return training_device("cuda")


@pytest.mark.parametrize("changes", FAMILIES, ids=lambda changes: changes.get("family", "dtkd"))
def test_one_seed_gives_one_network(
    changes: dict[str, Any], card: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same weights bit by bit, on the processor; the first losses are those of the processor's own training,
    and a finished training is read again from its checkpoint."""
    monkeypatch.setattr(checkpoint_module, "SECONDS_BETWEEN", 0.0)
    model = ModelSettings.model_validate({**changes, "random_teachers": True})
    steps: list[str] = []

    def trained(device: torch.device, work: Path | None) -> Trained:
        return train(
            IMAGES,
            model,
            TINY,
            canvas=CANVAS,
            regions=REGIONS,
            seed=3,
            work=work,
            progress=lambda stage, done, total: steps.append(stage),
            device=device,
        )

    def same(one: Trained, other: Trained) -> bool:
        weights = other.network.state_dict()
        return all(torch.equal(value, weights[name]) for name, value in one.network.state_dict().items())

    first = trained(card, tmp_path)
    assert all(value.device.type == "cpu" for value in first.network.state_dict().values())
    assert same(first, trained(card, None))
    count = len(steps)
    assert same(first, trained(card, tmp_path))
    assert len(steps) == count
    alike = trained(torch.device("cpu"), None)
    for name, losses in alike.losses.items():
        assert first.losses[name][0] == pytest.approx(losses[0], rel=0.05)


def test_a_score_is_fitted_to_what_the_card_taught(card: torch.device) -> None:
    """The whole way: folds, constants and left-out scores, all finite."""
    made = fit(
        IMAGES,
        np.arange(12),
        ModelSettings(random_teachers=True),
        CANVAS,
        REGIONS,
        TINY,
        held_out=4,
        asked=Asked.of(0.01, 0.95, REGIONS),
        seed=0,
        work=None,
        progress=lambda stage, done, total: None,
        device=card,
    )
    assert np.isfinite(made.part_scores).all()
    assert device_name(card) == torch.cuda.get_device_name(card)
