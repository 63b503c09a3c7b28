"""Figures, against cases worked out by hand and against the definition written out slowly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

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


def some_maps(ties: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Maps of 6 parts, two of them good, with several defect areas; optionally coarse, so that pixels tie."""
    generator = np.random.default_rng(3)
    maps = generator.normal(size=(6, 24, 32)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[2:, 3:8, 4:11] = True
    masks[3:, 15:18, 20:29] = True
    masks[4, 8, 11] = True  # touches the first area by its corner: one area under 8-connectivity
    maps[masks] += 1.5
    inside = np.zeros((24, 32), dtype=bool)
    inside[1:23, 2:30] = True
    return (np.round(maps) if ties else maps), masks, inside


@pytest.mark.parametrize("ties", [False, True])
def test_pixel_auroc_is_scikit_learns(ties: bool) -> None:
    """The two-sort area equals scikit-learn's, ties included, over the pixels that count."""
    maps, masks, inside = some_maps(ties)
    expected = roc_auc_score(masks[:, inside].ravel(), maps[:, inside].ravel())
    assert metrics.pixel_auroc(maps, masks, inside) == pytest.approx(expected, abs=1e-12)


def slow_pro(maps: NDArray[np.float32], masks: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    """PRO by its definition: every distinct value is a cut."""
    masks = masks & inside
    good = maps[:, inside][~masks[:, inside]]
    rates, overlaps = [0.0], [0.0]
    for cut in np.unique(maps)[::-1]:
        rates.append(float((good >= cut).mean()))
        shares = []
        for one_map, mask in zip(maps, masks, strict=True):
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            shares += [float((one_map[labels == area] >= cut).mean()) for area in range(1, count)]
        overlaps.append(float(np.mean(shares)))
    inner = np.array(rates) < 0.3
    x = np.append(np.array(rates)[inner], 0.3)
    y = np.append(np.array(overlaps)[inner], np.interp(0.3, rates, overlaps))
    return float(np.trapezoid(y, x) / 0.3)


@pytest.mark.parametrize("ties", [False, True])
def test_pro_is_its_definition(ties: bool) -> None:
    """The fast PRO equals the definition with every value as a cut."""
    maps, masks, inside = some_maps(ties)
    assert metrics.pro(maps, masks, inside) == pytest.approx(slow_pro(maps, masks, inside), abs=2e-3)


def test_pro_by_hand() -> None:
    """One area found at once, one never before FPR 0.3: PRO is one half; all found at once: 1."""
    maps = np.zeros((1, 10, 20), np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[0, 0, 0:4] = masks[0, 5, 0:4] = True
    maps[0] = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    maps[0, 0, 0:4] = 2.0
    maps[0, 5, 0:4] = -1.0
    inside = np.ones((10, 20), dtype=bool)
    assert metrics.pro(maps, masks, inside) == pytest.approx(0.5, abs=1e-6)
    maps[0, 5, 0:4] = 2.0
    assert metrics.pro(maps, masks, inside) == pytest.approx(1.0, abs=1e-6)
