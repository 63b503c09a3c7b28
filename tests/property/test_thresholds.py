"""Limits from good parts: the promised interval holds, whatever the distribution, and the limits behave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from calibration.errors import CalibrationError, TooFewParts
from calibration.regions import calibrate_lambdas
from calibration.threshold import choose_thresholds, held_out_parts
from engines.artifact import ThresholdSet

DISTRIBUTIONS = {
    "normal": stats.norm(),
    "lognormal": stats.lognorm(0.6),
    "gamma": stats.gamma(2),
    "heavy t": stats.t(3),
}
NAMES = ("a", "b")


def choose(scores: NDArray[np.float64], asked_rate: float = 0.01, confidence: float = 0.95) -> ThresholdSet:
    """Limits for a part score that is the larger of two region scores (P, 2)."""
    return choose_thresholds(scores.max(axis=1), scores, NAMES, asked_rate=asked_rate, confidence=confidence)


def rejected(limits: ThresholdSet, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of (P, 2) parts any limit rejects."""
    by_region = np.stack([scores[:, i] > limits.regions[name].value for i, name in enumerate(NAMES)])
    verdicts: NDArray[np.bool_] = by_region.any(axis=0) | (scores.max(axis=1) > limits.part.value)
    return verdicts


def correlated(name: str, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(P, 2) scores with these margins that rise and fall together, as regions of a part do."""
    common = generator.normal(size=(count, 1))
    mixed = 0.7 * common + np.sqrt(1 - 0.49) * generator.normal(size=(count, 2))
    quantiles = DISTRIBUTIONS[name].ppf(stats.norm.cdf(mixed))
    return np.asarray(quantiles * np.array([1.0, 5.0]), dtype=np.float64)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("count", "asked_rate", "method"), [(150, 0.05, "conformal"), (40, 0.02, "tail")])
def test_interval_holds_as_often_as_it_says(name: str, count: int, asked_rate: float, method: str) -> None:
    """Over repetitions, the true rate of all limits together lies in the interval with its confidence.

    90 % is stated; the test allows for the spread of 120 repetitions (3 deviations).
    """
    generator = np.random.default_rng(11)
    fresh = correlated(name, 40_000, generator)
    inside = 0
    for _ in range(120):
        limits = choose(correlated(name, count, generator), asked_rate, 0.9)
        assert limits.method == method
        rate = rejected(limits, fresh).mean()
        inside += limits.low <= rate <= limits.high
    assert inside / 120 > 0.9 - 3 * np.sqrt(0.9 * 0.1 / 120)


def test_counted_rate_is_exact_over_all_limits_together() -> None:
    """The mean rate over repetitions is blocks / (P + 1), for dependent regions of any margin."""
    generator = np.random.default_rng(5)
    fresh = correlated("heavy t", 40_000, generator)
    rates = [rejected(choose(correlated("heavy t", 99, generator), 0.05), fresh).mean() for _ in range(300)]
    # Beta(5, 95): mean 0.05, deviation 0.0217.
    assert np.mean(rates) == pytest.approx(0.05, abs=3 * 0.0217 / np.sqrt(300))


scores_strategy = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).gamma(2, 1, size=(np.random.default_rng(seed).integers(12, 200), 2))
)


@settings(max_examples=25, deadline=None)
@given(scores_strategy, st.floats(0.001, 0.45), st.floats(0.001, 0.45))
def test_higher_asked_rate_never_raises_a_limit(scores: NDArray[np.float64], one: float, other: float) -> None:
    """Limits fall, or stay, as the tolerated rate rises, also where counting takes over from the tail."""
    strict, lenient = choose(scores, min(one, other)), choose(scores, max(one, other))
    assert lenient.part.value <= strict.part.value
    assert all(lenient.regions[name].value <= strict.regions[name].value for name in NAMES)


@settings(max_examples=15, deadline=None)
@given(scores_strategy, st.integers(0, 1000), st.sampled_from([0.005, 0.1]))
def test_order_of_parts_does_not_matter(scores: NDArray[np.float64], seed: int, asked_rate: float) -> None:
    """The same parts in another order give the same limits, digit for digit."""
    assert choose(scores, asked_rate) == choose(np.random.default_rng(seed).permutation(scores), asked_rate)


@settings(max_examples=15, deadline=None)
@given(scores_strategy, st.floats(0.01, 1000), st.sampled_from([0.005, 0.1]))
def test_limits_follow_the_unit_of_the_scores(scores: NDArray[np.float64], factor: float, asked_rate: float) -> None:
    """Scores in another unit give limits in that unit and the same promise."""
    plain, scaled = choose(scores, asked_rate), choose(scores * factor, asked_rate)
    assert scaled.part.value == pytest.approx(plain.part.value * factor, rel=1e-6)
    assert scaled.high == pytest.approx(plain.high, rel=1e-6)


@settings(max_examples=20, deadline=None)
@example(10, 2, 0.01, 370)
@given(st.integers(10, 300), st.integers(1, 4), st.sampled_from([0.01, 0.1]), st.integers(0, 1000))
def test_ties_reject_no_more_than_promised(count: int, levels: int, asked_rate: float, seed: int) -> None:
    """Scores of a few distinct values, or one: no calibration part above the asked share, and 0 is in the interval."""
    scores = np.random.default_rng(seed).integers(0, levels, size=(count, 2)).astype(np.float64)
    limits = choose(scores, asked_rate)
    assert rejected(limits, scores).mean() <= asked_rate
    if levels == 1:
        assert limits.low == 0
        assert any("same score" in note for note in limits.notes)


def test_one_region_shares_the_parts_limit() -> None:
    """Where the only region's score is the part's, one limit serves both and the rate is not halved."""
    scores = np.random.default_rng(0).normal(size=400)
    limits = choose_thresholds(scores, scores[:, None], ["a"], asked_rate=0.01, confidence=0.95)
    assert limits.method == "conformal"
    assert limits.part == limits.regions["a"]
    assert limits.part.value == np.sort(scores)[-4]


def test_limit_is_not_the_maximum() -> None:
    """With few parts the limit lies above every held-out part, not on the highest; with many, below it."""
    scores = np.random.default_rng(0).normal(size=(1000, 2))
    few, many = choose(scores[:40]), choose(scores)
    assert few.part.value > scores[:40].max()
    assert many.part.value < scores.max()
    assert few.part.upper_bound is not None
    assert few.part.upper_bound > few.part.value


def test_says_how_many_parts_are_needed() -> None:
    """With too few parts for the asked rate the note says how many there should be; with as many it is silent."""
    scores = np.random.default_rng(0).normal(size=(299, 2))
    needed = choose(scores[:50]).needed_parts
    assert needed == 299
    assert any("with 299 held-out good parts" in note for note in choose(scores[:50]).notes)
    assert choose(scores).method == "conformal"
    assert choose(scores).notes == ()
    assert choose(scores[:298]).method == "tail"


@pytest.mark.parametrize(
    ("parts", "regions", "expected"),
    [(761, 1, 299), (597, 1, 179), (598, 1, 299), (1000, 3, 399), (700, 3, 210), (2000, 1, 600), (120, 1, 36)],
)
def test_as_many_parts_are_held_out_as_counting_takes(parts: int, regions: int, expected: int) -> None:
    """More than the share where limits can then be counted and half of the parts remain to learn from; and they are
    counted with so many, with one fewer they are not."""
    held_out = held_out_parts(parts, 0.3, 0.01, regions)
    assert held_out == expected
    if held_out > 0.3 * parts:
        scores = np.random.default_rng(5).normal(size=(held_out, regions))
        names = [f"region-{number}" for number in range(regions)]
        methods = [
            choose_thresholds(some.max(axis=1), some, names, asked_rate=0.01, confidence=0.95).method
            for some in (scores, scores[1:])
        ]
        assert methods == ["conformal", "tail"]


def test_a_small_share_still_holds_out_enough_to_choose_limits_on() -> None:
    """6 of 100 parts would be refused after the training."""
    assert held_out_parts(100, 0.06, 0.01, 1) == 10


def test_bad_scores_are_refused() -> None:
    """NaN, infinity, shapes that do not fit, rates out of range and too few parts are one line each."""
    scores = np.random.default_rng(0).normal(size=(50, 2))
    for bad in (np.nan, np.inf):
        spoilt = scores.copy()
        spoilt[3, 1] = bad
        with pytest.raises(CalibrationError, match="not a number"):
            choose(spoilt)
    with pytest.raises(CalibrationError, match="do not fit"):
        choose_thresholds(scores[:, 0], scores, ["a"], asked_rate=0.01, confidence=0.95)
    with pytest.raises(CalibrationError, match="asked rate"):
        choose(scores, asked_rate=0.0)
    with pytest.raises(TooFewParts, match="at least 5"):
        choose(scores[:4])


def test_lambdas_make_regions_alike() -> None:
    """Eq. 13: the average weighted score is the same in every region, and the largest weight is 1."""
    pg = np.random.default_rng(0).gamma(9, 1, size=(80, 3)) * np.array([0.02, 0.01, 0.05])
    lambdas = calibrate_lambdas(pg, ["a", "b", "c"])
    weighted = pg.mean(axis=0) * [weight.value for weight in lambdas]
    assert weighted == pytest.approx([weighted[0]] * 3)
    assert max(weight.value for weight in lambdas) == 1
    assert all(weight.low <= weight.value <= weight.high for weight in lambdas)
    assert calibrate_lambdas(pg[::-1], ["a", "b", "c"]) == lambdas


def test_lambda_intervals_hold() -> None:
    """The true ratio of the averages lies in the bootstrap interval about as often as it says."""
    generator = np.random.default_rng(2)
    inside = 0
    for _ in range(100):
        low_high = calibrate_lambdas(generator.gamma(4, 1, size=(60, 2)) * np.array([1.0, 2.0]), ["a", "b"])[1]
        inside += low_high.low <= 0.5 <= low_high.high
    assert inside >= 88


def test_dead_region_is_named() -> None:
    """A region whose score is 0 on every good part has no weight; too few parts and NaN are refused too."""
    pg = np.ones((20, 2))
    pg[:, 1] = 0
    with pytest.raises(CalibrationError, match="region b"):
        calibrate_lambdas(pg, ["a", "b"])
    with pytest.raises(TooFewParts):
        calibrate_lambdas(np.ones((3, 2)), ["a", "b"])
    with pytest.raises(CalibrationError, match="not a number"):
        calibrate_lambdas(np.full((20, 2), np.nan), ["a", "b"])
