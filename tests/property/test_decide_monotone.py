"""Property: decide is monotone in every score, and lets nothing pass that was not measured."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from line_values import REGIONS, scores

from inspectd.decide import decide
from inspectd.messages import Outcome, Thresholds

numbers = st.floats(-1e6, 1e6)
anything = st.floats(allow_nan=True, allow_infinity=True)
limits = st.builds(
    lambda part, regions: Thresholds(part=part, regions=tuple(zip(REGIONS, regions, strict=True))),
    numbers,
    st.tuples(numbers, numbers, numbers),
)


@given(limits, numbers, st.tuples(numbers, numbers, numbers), st.integers(0, 3), st.floats(0, 1e6))
def test_raising_a_score_never_accepts(
    thresholds: Thresholds, part: float, regions: tuple[float, ...], which: int, more: float
) -> None:
    """Where a part is rejected, it is still rejected with any one score raised."""
    before = replace(scores(part_score=part), region_scores=tuple(zip(REGIONS, regions, strict=True)))
    raised = [value + more if index == which else value for index, value in enumerate((part, *regions))]
    after = replace(before, part_score=raised[0], region_scores=tuple(zip(REGIONS, raised[1:], strict=True)))
    if decide(before, thresholds).outcome is Outcome.REJECT:
        assert decide(after, thresholds).outcome is Outcome.REJECT


@given(limits, anything, st.tuples(anything, anything, anything))
def test_only_finite_scores_within_all_limits_pass(
    thresholds: Thresholds, part: float, regions: tuple[float, ...]
) -> None:
    """PASS means: every score is finite and at most its limit."""
    judged = replace(scores(part_score=part), region_scores=tuple(zip(REGIONS, regions, strict=True)))
    all_limits = (thresholds.part, *(limit for _, limit in thresholds.regions))
    within = all(math.isfinite(s) and s <= limit for s, limit in zip((part, *regions), all_limits, strict=True))
    assert (decide(judged, thresholds).outcome is Outcome.PASS) == within
