"""Pixel AUROC and PRO, against cases worked out by hand, scikit-learn, and the definitions written out slowly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from calibration.errors import CalibrationError
from calibration.pixel_metrics import PixelFigures, pixel_figures

Maps = NDArray[np.float32]
Bools = NDArray[np.bool_]


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
    """The area equals scikit-learn's, ties included, over the pixels that count."""
    maps, masks, inside = some_maps(ties)
    expected = roc_auc_score(masks[:, inside].ravel(), maps[:, inside].ravel())
    assert pixel_figures(maps, masks, inside).auroc == pytest.approx(expected, abs=1e-12)


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
    """PRO equals the definition with every value as a cut."""
    maps, masks, inside = some_maps(ties)
    assert pixel_figures(maps, masks, inside).pro == pytest.approx(slow_pro(maps, masks, inside), abs=1e-12)


def two_areas() -> tuple[Maps, Bools, Bools]:
    """One map of 4 x 7: an area of 2 pixels, one of 6, and 20 good pixels of the values 1 to 20."""
    maps = np.zeros((1, 4, 7), np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[0, 0:2, 0] = True
    masks[0, 1:3, 4:7] = True
    maps[0][~masks[0]] = np.arange(1, 21)
    return maps, masks, np.ones((4, 7), dtype=bool)


def test_pro_by_hand() -> None:
    """Two areas of different size count alike; the curve is integrated to 0.3 by hand, and divided by 0.3.

    Of the small area one pixel lies above all good pixels (found at FPR 0) and one below 2 of 20 (found at FPR 0.1): it
    contributes 1/2 over [0, 0.3] and 1/2 over [0.1, 0.3], that is 0.15 + 0.10 = 0.25. Of the large one three pixels lie
    below 4 of 20 (FPR 0.2) and three below 8 (FPR 0.4, beyond the limit): 1/2 over [0.2, 0.3] = 0.05.
    PRO = (0.25 + 0.05) / 2 / 0.3 = 0.5.
    """
    maps, masks, inside = two_areas()
    maps[0, 0:2, 0] = 30, 18.5
    maps[0, 1, 4:7] = 16.5
    maps[0, 2, 4:7] = 12.5
    figures = pixel_figures(maps, masks, inside)
    assert figures.pro == pytest.approx(0.5, abs=1e-12)
    # AUROC counts pixels alike: 8 pixels, found at FPR 0, 0.1, 0.2 (three) and 0.4 (three).
    assert figures.auroc == pytest.approx((1 + 0.9 + 3 * 0.8 + 3 * 0.6) / 8, abs=1e-12)


def test_pro_of_ties_by_hand() -> None:
    """A pixel that ties with a good one is found on a straight line between the rates before and after it.

    All 8 defective pixels have the value 15, which 5 of 20 good pixels exceed and one equals: overlap rises from 0 at
    FPR 0.25 to 1 at 0.3. The triangle has 0.05 / 2 = 0.025; 0.025 / 0.3 = 1/12.
    """
    maps, masks, inside = two_areas()
    maps[0][masks[0]] = 15
    assert pixel_figures(maps, masks, inside).pro == pytest.approx(1 / 12, abs=1e-12)


def test_areas_found_at_once_or_never() -> None:
    """All above the good pixels: 1; all below them: 0; pixels outside the regions count for nothing."""
    maps, masks, inside = two_areas()
    maps[0][masks[0]] = 30
    assert pixel_figures(maps, masks, inside).pro == pytest.approx(1.0)
    maps[0][masks[0]] = -1
    assert (pixel_figures(maps, masks, inside).pro, pixel_figures(maps, masks, inside).auroc) == (0.0, 0.0)
    maps[0, 0:2, 0] = 30
    inside[:, 4:] = False
    assert pixel_figures(maps, masks, inside).pro == pytest.approx(1.0)


def test_one_kind_of_pixels_is_refused() -> None:
    """Without defective pixels inside the regions there is nothing to say."""
    maps, masks, inside = two_areas()
    with pytest.raises(CalibrationError, match="both good and defective pixels"):
        pixel_figures(maps, np.zeros_like(masks), inside)


def many(good: int, bad: int, seed: int, spread: float = 1.0) -> tuple[Maps, Bools, Bools]:
    """Maps whose defects are found more or less well, part by part; the first `bad` parts have one."""
    generator = np.random.default_rng(seed)
    maps = generator.normal(size=(good + bad, 16, 16)).astype(np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[:bad, 4:9, 5:11] = True
    maps += masks * generator.normal(1.5, spread, (good + bad, 1, 1)).astype(np.float32)
    return maps, masks, np.ones((16, 16), dtype=bool)


def resampled(maps: Maps, masks: Bools, inside: Bools, rounds: int) -> NDArray[np.float64]:
    """(AUROC, PRO) of parts drawn again, each figure worked out anew from all pixels: (rounds, 2)."""
    generator = np.random.default_rng(7)
    bad = int(masks.any(axis=(1, 2)).sum())
    drawn = []
    for _ in range(rounds):
        chosen = np.r_[generator.integers(0, bad, bad), generator.integers(bad, len(maps), len(maps) - bad)]
        figures = pixel_figures(maps[chosen], masks[chosen], inside, resamples=1)
        drawn.append((figures.auroc, figures.pro))
    return np.array(drawn)


def test_intervals_are_those_of_parts_drawn_again() -> None:
    """Limits agree with a bootstrap that works each figure out anew; they hold the figure, and depend on the seed."""
    maps, masks, inside = many(20, 20, seed=1)
    figures = pixel_figures(maps, masks, inside)
    low, high = np.quantile(resampled(maps, masks, inside, 400), [0.025, 0.975], axis=0)
    assert figures.auroc_interval == pytest.approx((low[0], high[0]), abs=0.02)
    assert figures.pro_interval == pytest.approx((low[1], high[1]), abs=0.04)
    assert figures.auroc_interval[0] < figures.auroc < figures.auroc_interval[1]
    assert figures.pro_interval[0] < figures.pro < figures.pro_interval[1]
    assert pixel_figures(maps, masks, inside) == figures
    assert pixel_figures(maps, masks, inside, seed=1).auroc_interval != figures.auroc_interval


def test_pixels_of_one_part_are_not_many_witnesses() -> None:
    """Parts that differ widely leave a wide interval, however many pixels each has."""

    def width(figures: PixelFigures) -> float:
        return figures.auroc_interval[1] - figures.auroc_interval[0]

    alike, unlike = (pixel_figures(*many(20, 20, seed=2, spread=spread)) for spread in (0.0, 1.5))
    assert width(unlike) > 3 * width(alike)


def test_intervals_of_maps_full_of_ties() -> None:
    """Where most good pixels share one value, a resample of the parts as they are still gives the figure itself."""
    maps, masks, inside = many(1, 1, seed=3)
    maps[~masks] = np.maximum(maps[~masks], 0)
    maps[masks] = np.linspace(1e-3, 2, int(masks.sum()))
    figures = pixel_figures(maps, masks, inside)  # one part of each kind: every resample is the set itself
    assert figures.auroc_interval == pytest.approx((figures.auroc, figures.auroc), abs=1 / 4096)
    assert figures.pro_interval == pytest.approx((figures.pro, figures.pro), abs=1e-3)


def test_parts_that_are_defective_all_over() -> None:
    """A resample without any good pixel is left out instead of dividing by nothing."""
    maps, masks, inside = many(0, 2, seed=4)
    masks[0] = True
    figures = pixel_figures(maps, masks, inside)
    assert 0 <= figures.auroc_interval[0] <= figures.auroc_interval[1] <= 1
