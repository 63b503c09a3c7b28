"""Brightness and sharpness of a part image, and what calibration keeps of its good parts for the drift watch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calibration.fit_scores import Fitted
from calibration.reference import reference
from calibration.threshold import choose_thresholds
from engines.artifact import Statistic, ThresholdSet
from engines.artifact.manifest import MOST_VALUES
from engines.part_statistics import appearance

NAMES = ("left", "right")


def noisy(seed: int = 0, level: float = 100) -> np.ndarray:
    """A grey part image with noise."""
    random = np.random.default_rng(seed)
    return np.repeat(random.normal(level, 20, (32, 48, 1)).clip(0, 255).astype(np.uint8), 3, axis=2)


def fitted(part_scores: np.ndarray, held_out: np.ndarray) -> Fitted:
    """What training would have left: scores alone matter here."""
    regions = np.stack([part_scores, part_scores / 2], axis=1)
    return Fitted(
        network=None,  # type: ignore[arg-type]
        losses={},
        constants=None,  # type: ignore[arg-type]
        lambdas=(),
        held_out=held_out,
        part_scores=part_scores,
        region_scores=regions,
        patch_gmsd=np.zeros_like(regions),
        defect_scores=np.zeros((0, 2)),
    )


def limits_of(part_scores: np.ndarray) -> ThresholdSet:
    """Limits as calibration chooses them."""
    regions = np.stack([part_scores, part_scores / 2], axis=1)
    return choose_thresholds(part_scores, regions, NAMES, asked_rate=0.1, confidence=0.9)


def test_brightness_is_the_mean_grey_value_and_sharpness_the_variance_of_the_laplacian() -> None:
    """The shared formula is the plain one, to rounding."""
    image = noisy()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    looks = appearance(image)
    assert looks.brightness == pytest.approx(grey.mean())
    assert looks.sharpness == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var())


def test_blur_lowers_sharpness_and_leaves_brightness() -> None:
    """A lens out of focus shows in one number, a weak lamp in the other."""
    image = noisy()
    blurred = cv2.GaussianBlur(image, (5, 5), 1.5)
    assert appearance(blurred).sharpness < 0.2 * appearance(image).sharpness
    assert appearance(blurred).brightness == pytest.approx(appearance(image).brightness, abs=1)
    assert appearance(image // 2).brightness < 0.6 * appearance(image).brightness


def test_the_reference_is_of_held_out_parts_that_pass() -> None:
    """Parts of training and parts above a limit are left out, in every quantity alike."""
    scores = np.linspace(0.1, 0.9, 60)
    images = np.stack([noisy(index, level=50 + index) for index in range(80)])
    held_out = np.arange(20, 80)
    limits = limits_of(scores)
    found = reference(images, {"pose_x_px": np.arange(80.0)}, fitted=fitted(scores, held_out), limits=limits)
    limit = min(limits.part.value, limits.regions["left"].value, 2 * limits.regions["right"].value)
    passed = [index for index in range(20, 80) if scores[index - 20] < limit]
    assert set(found) == {
        "part_score", "region_score.left", "region_score.right", "brightness", "sharpness", "pose_x_px"
    }  # fmt: skip
    assert found["pose_x_px"].values == tuple(map(float, passed))
    assert {statistic.parts for statistic in found.values()} == {len(passed)}
    assert max(found["part_score"].values) < limits.part.value
    assert found["brightness"].values[0] == pytest.approx(appearance(images[passed[0]]).brightness)


def test_of_many_parts_so_many_values_are_kept() -> None:
    """A manifest stays small however many parts were learnt from; count, mean and quantiles are of all."""
    values = np.random.default_rng(0).normal(size=5_000)
    statistic = Statistic.of(values)
    assert statistic.parts == 5_000
    assert statistic.mean == pytest.approx(values.mean())
    assert len(statistic.values) == MOST_VALUES
    assert set(statistic.values) <= set(values.tolist())


def test_statistics_of_old_bundles_are_read() -> None:
    """A manifest without values is valid: such a bundle runs without drift watch."""
    old = {"mean": 1.0, "std": 0.5, "quantiles": [[0.5, 1.0]]}
    assert Statistic.model_validate(old).values == ()
