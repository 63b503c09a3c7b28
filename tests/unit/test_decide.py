"""decide: scores and thresholds in, what is said of the part out."""

from __future__ import annotations

import math

import pytest
from line_values import LIMITS, scores

from inspectd.decide import decide
from inspectd.messages import Outcome, Reason, Thresholds


def test_a_score_at_its_limit_passes() -> None:
    """A score equal to its limit is within it."""
    decision = decide(scores(part_score=0.5, region_score=0.5), LIMITS)
    assert (decision.outcome, decision.reason) == (Outcome.PASS, Reason.WITHIN_LIMITS)


def test_a_part_score_above_its_limit_rejects() -> None:
    """The part score alone is enough for a REJECT, and the detail names it."""
    decision = decide(scores(part_score=0.6), LIMITS)
    assert decision.outcome is Outcome.REJECT
    assert decision.detail == "the part scores 0.6, its limit is 0.5"


def test_a_region_score_above_its_limit_rejects() -> None:
    """One region is enough for a REJECT, and the detail names every region that is over."""
    decision = decide(scores(region_score=0.7), LIMITS)
    assert decision.outcome is Outcome.REJECT
    assert "region body scores 0.7, its limit is 0.5" in decision.detail
    assert decision.detail.count("region") == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_invalid(bad: float) -> None:
    """Neither NaN nor infinity passes, nor does it reject: it was not measured."""
    for judged in (scores(part_score=bad), scores(region_score=bad)):
        decision = decide(judged, LIMITS)
        assert (decision.outcome, decision.reason) == (Outcome.INVALID, Reason.NOT_A_NUMBER)


def test_a_limit_that_is_not_finite_is_invalid() -> None:
    """A NaN limit lets nothing pass."""
    limits = Thresholds(part=math.nan, regions=LIMITS.regions)
    assert decide(scores(), limits).outcome is Outcome.INVALID


def test_other_regions_than_have_limits_are_invalid() -> None:
    """A region without a limit, or a limit without its region, is a fault of the engine."""
    limits = Thresholds(part=0.5, regions=LIMITS.regions[:2])
    assert decide(scores(), limits).reason is Reason.ENGINE_FAULT
