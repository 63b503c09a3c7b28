"""The drift watch: its false-alarm rate holds for small calibrations, shifts are found, an alarm ends by itself."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspectd.health.drift import FALSE_ALARMS_PER_START, Direction, DriftWatch, QuantityTest

PARTS_PER_FALSE_ALARM = 10_000_000


def good(count: int, seed: int, *, skewed: bool = False) -> NDArray[np.float64]:
    """Values of good parts: of deviation 1, or lognormal."""
    random = np.random.default_rng([seed, count])
    return random.lognormal(sigma=0.75, size=count) if skewed else random.normal(size=count)


def run_length(test: QuantityTest, values: NDArray[np.float64]) -> int | None:
    """Parts until the alarm."""
    for count, value in enumerate(values, start=1):
        test.observe(value)
        if test.drifted:
            return count
    return None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=4, max_size=12, unique=True), st.lists(st.integers(-10, 9), max_size=30))
def test_the_statistic_grows_by_one_a_part_on_average(reference: list[int], places: list[int]) -> None:
    """Over the cells of Polya's urn the statistic's mean after one more part is what it was, plus one: no bias."""
    line = [place + 0.25 for place in places]
    test = QuantityTest(reference, 1e30, 5.0)
    for value in line:
        test.observe(value)
    edges = [-20, *sorted(reference), 20]
    mean = 0.0
    for low, high in pairwise(edges):
        inside = (1 + sum(low < value <= high for value in line)) / (len(reference) + 1 + len(line))
        after = copy.deepcopy(test)
        after.observe(low + 0.5)
        mean += inside * after.statistic
    assert mean == pytest.approx(test.statistic + 1)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("parts", [40, 90])
def test_the_stated_run_length_holds_for_small_calibrations(parts: int, skewed: bool) -> None:
    """Without drift an alarm takes as many parts as stated on average, whatever the distribution."""
    limit, most = 300.0, 1_500
    lengths = []
    for seed in range(60):
        test = QuantityTest(good(parts, seed, skewed=skewed), limit, 0.0)
        lengths.append(run_length(test, good(most, 1000 + seed, skewed=skewed)) or most)
    assert np.mean(lengths) > limit


def test_no_false_alarm_in_a_hundred_thousand_parts() -> None:
    """As often as the bound allows, which here is one run in a hundred: not in these."""
    for seed, parts in enumerate((40, 65, 90)):
        watch = DriftWatch({"part_score": good(parts, seed)}, PARTS_PER_FALSE_ALARM)
        for seq, value in enumerate(good(100_000, 100 + seed)):
            assert not watch.observe(seq, {"part_score": value})


def test_the_head_start_keeps_its_share_of_false_alarms() -> None:
    """Of many fresh starts no more than the stated share ends in an alarm at once."""
    alarms, starts = 0, 1_000
    for seed in range(starts):
        watch = DriftWatch({"brightness": good(30, seed)}, PARTS_PER_FALSE_ALARM)
        alarms += any(watch.observe(seq, {"brightness": value}) for seq, value in enumerate(good(60, 5000 + seed)))
    assert alarms <= 2 * FALSE_ALARMS_PER_START * starts + 1


@pytest.mark.parametrize(("shift", "within"), [(2.0, 40), (-2.0, 40), (1.0, 150), (-1.0, 150)])
def test_a_shift_is_found_soon(shift: float, within: int) -> None:
    """After five hundred good parts a shift by one or two deviations is found in so many parts, with its direction."""
    for seed in range(5):
        watch = DriftWatch({"sharpness": good(60, seed)}, PARTS_PER_FALSE_ALARM)
        for seq, value in enumerate(good(500, 200 + seed)):
            assert not watch.observe(seq, {"sharpness": value})
        begun = [
            reading
            for seq, value in enumerate(good(within, 300 + seed) + shift)
            for reading in watch.observe(seq + 500, {"sharpness": value})
        ]
        assert len(begun) == 1, f"seed {seed}"
        assert begun[0].direction is (Direction.UP if shift > 0 else Direction.DOWN)
        assert begun[0].since_seq is not None
        assert begun[0].since_seq >= 500


def test_a_line_that_was_shifted_before_the_start_is_found() -> None:
    """A lamp that was changed while the daemon was down is noticed after some parts: calibration is compared with."""
    for seed in range(5):
        watch = DriftWatch({"brightness": good(60, seed)}, PARTS_PER_FALSE_ALARM)
        values = good(60, 400 + seed) - 2.0
        assert any(watch.observe(seq, {"brightness": value}) for seq, value in enumerate(values)), f"seed {seed}"


def test_a_small_lasting_shift_is_no_drift() -> None:
    """A quarter of a deviation is below what the test is made for, so that a wandering line does not cry wolf."""
    watch = DriftWatch({"part_score": good(200, 1)}, PARTS_PER_FALSE_ALARM)
    values = np.concatenate([good(2_000, 2), good(5_000, 3) + 0.2])
    assert not any(watch.observe(seq, {"part_score": value}) for seq, value in enumerate(values))


def test_drift_lasts_until_parts_lie_as_in_calibration() -> None:
    """An alarm stands however long the drift lasts, ends soon after it, and a new drift is a new alarm."""
    watch = DriftWatch({"brightness": good(80, 1)}, PARTS_PER_FALSE_ALARM)
    phases = [good(300, 2), good(3_000, 3) + 2.0, good(300, 4), good(300, 5) - 2.0]
    changes = []
    for seq, value in enumerate(np.concatenate(phases)):
        changes += [(seq, reading) for reading in watch.observe(seq, {"brightness": value})]
    states = [(seq, reading.direction, reading.since_seq) for seq, reading in changes]
    assert [direction for _, direction, _ in states] == [Direction.UP, Direction.UP, Direction.DOWN]
    assert 300 <= states[0][0] < 350
    assert states[0][2] == states[0][0]
    assert 3_300 <= states[1][0] < 3_400
    assert states[1][2] is None
    assert 3_600 <= states[2][0] < 3_700
    assert [reading.since_seq for reading in watch.readings()] == [states[2][2]]


def test_each_quantity_is_watched_by_itself() -> None:
    """Drift of one quantity is not that of another; what is not known, or not a number, is left alone."""
    watch = DriftWatch({"brightness": good(60, 1), "pose_x_px": good(60, 2)}, PARTS_PER_FALSE_ALARM)
    steady = good(300, 3)
    for seq in range(300):
        watch.observe(seq, {"brightness": steady[seq] + 3, "pose_x_px": steady[seq], "unknown": 1e9})
    watch.observe(300, {"pose_x_px": float("nan")})
    readings = {reading.quantity: reading for reading in watch.readings()}
    assert readings["brightness"].since_seq is not None
    assert readings["pose_x_px"].since_seq is None
    assert readings["pose_x_px"].parts == 300
    assert readings["brightness"].limit == 2 * PARTS_PER_FALSE_ALARM


def test_a_quantity_that_never_changes_is_watched_too() -> None:
    """Equal values (a pose where nothing is located) are no drift; leaving them is."""
    watch = DriftWatch({"pose_angle_deg": [0.0] * 40}, PARTS_PER_FALSE_ALARM)
    assert not any(watch.observe(seq, {"pose_angle_deg": 0.0}) for seq in range(2_000))
    assert any(watch.observe(seq, {"pose_angle_deg": 1.5}) for seq in range(2_000, 2_100))


def test_a_handful_of_parts_is_no_reference() -> None:
    """A quantity of which calibration knew too few values, or none, is not watched."""
    watch = DriftWatch({"brightness": good(15, 1), "sharpness": []}, PARTS_PER_FALSE_ALARM)
    assert watch.quantities == ()
    assert watch.observe(1, {"brightness": 100.0}) == []
