"""Figures of parts, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import metrics
from calibration.errors import CalibrationError

SCORES = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 2.5, 6.0])
DEFECTIVE = np.array([False, False, False, False, False, True, True])


def test_image_auroc_by_hand() -> None:
    """Of 10 pairs of a good and a defective part, 2.5 beats two and 6 beats five."""
    assert metrics.image_auroc(SCORES, DEFECTIVE) == pytest.approx(0.7)


def test_rates_at_operating_points_by_hand() -> None:
    """To find both defects, 3 of 5 good parts go; at no more than 10 % of good parts, one defect is found."""
    assert metrics.fpr_at_tpr(SCORES, DEFECTIVE) == pytest.approx(3 / 5)
    assert metrics.tpr_at_fpr(SCORES, DEFECTIVE) == pytest.approx(1 / 2)


def test_one_kind_only_is_refused() -> None:
    """Without defective parts there is no AUROC."""
    with pytest.raises(CalibrationError, match="both good and defective"):
        metrics.image_auroc(SCORES, np.zeros(7, dtype=bool))


def test_auroc_interval_holds_the_figure() -> None:
    """The bootstrap interval contains the figure, and perfect separation leaves nothing to doubt."""
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.normal(0, 1, 80), generator.normal(1.5, 1, 60)])
    defective = np.arange(140) >= 80
    low, high = metrics.auroc_interval(scores, defective)
    assert 0.7 < low < metrics.image_auroc(scores, defective) < high < 1
    assert metrics.auroc_interval(defective * 1.0, defective) == (1.0, 1.0)


def test_rate_interval_is_clopper_pearson() -> None:
    """Known values: 0 of 10 gives [0, 0.3085], 5 of 10 gives [0.1871, 0.8129]; nothing of nothing is None."""
    none = metrics.rate_interval(0, 10)
    half = metrics.rate_interval(5, 10)
    assert none is not None
    assert half is not None
    assert (none.low, none.high) == (0.0, pytest.approx(0.30850, abs=1e-4))
    assert (half.low, half.high) == (pytest.approx(0.18709, abs=1e-4), pytest.approx(0.81291, abs=1e-4))
    assert metrics.rate_interval(0, 0) is None
