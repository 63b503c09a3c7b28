"""Scores + thresholds -> what is said of the part. Pure: no clock, no state, nothing but its arguments."""

from __future__ import annotations

import math
from typing import NamedTuple

from inspectd.messages import Outcome, Reason, Scores, Thresholds


class Decision(NamedTuple):
    """What is said of a part, why, and in plain words."""

    outcome: Outcome
    reason: Reason
    detail: str


def decide(scores: Scores, thresholds: Thresholds) -> Decision:
    """Reject where the part score, or any region's score, is above its limit; a score equal to its limit passes.

    Raising a score never turns a REJECT into a PASS. A score or limit that is not a finite number, or regions that are
    not those of the thresholds, give INVALID: nothing that was not measured passes.
    """
    if [name for name, _ in scores.region_scores] != [name for name, _ in thresholds.regions]:
        named = ", ".join(name for name, _ in scores.region_scores) or "none"
        return Decision(
            Outcome.INVALID, Reason.ENGINE_FAULT, f"the engine scored other regions ({named}) than have limits"
        )
    compared = [("the part", scores.part_score, thresholds.part)]
    for (name, score), (_, limit) in zip(scores.region_scores, thresholds.regions, strict=True):
        compared.append((f"region {name}", score, limit))
    for what, score, limit in compared:
        if not (math.isfinite(score) and math.isfinite(limit)):
            return Decision(Outcome.INVALID, Reason.NOT_A_NUMBER, f"the score of {what} is {score}, its limit {limit}")
    over = [f"{what} scores {score:.4g}, its limit is {limit:.4g}" for what, score, limit in compared if score > limit]
    if over:
        return Decision(Outcome.REJECT, Reason.OVER_THRESHOLD, "; ".join(over))
    return Decision(Outcome.PASS, Reason.WITHIN_LIMITS, "all scores are within their limits")
