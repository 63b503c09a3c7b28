"""Scores of held-out good parts -> the limits on part and region scores, with the false-reject rate that they promise.

Counted parts where there are enough (conformal), a fitted tail where there are not: docs/thresholds.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from calibration.errors import CalibrationError, TooFewParts
from calibration.tail import Tail, fit_tail
from engines.artifact import Threshold, ThresholdSet

Floats = NDArray[np.float64]
MIN_PARTS = 5
LEAST_HELD_OUT = 10
# Fewer parts above the limit than this say too little of where the next one falls: the limit would hang on the
# largest score alone.
MIN_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class _Rate:
    """A false-reject rate and its interval."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits (D,), their upper confidence bounds (D,) where fitted, the rate of all together, and of each alone."""

    values: Floats
    bounds: Floats | None
    joint: _Rate
    alone: list[_Rate]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the user asks for, and how many parts there are to answer it."""

    rate: float
    confidence: float
    parts: int


def held_out_parts(parts: int, share: float, asked_rate: float, regions: int) -> int:
    """How many of so many good parts are to be kept from training, so that limits can be chosen on them.

    The share, or as many as it takes to count the limits on part and region scores instead of fitting a tail, where no
    more than half of the parts are kept for that.
    """
    enough = _needed_parts(asked_rate, 1 if regions == 1 else 1 + regions)
    asked = max(LEAST_HELD_OUT, round(share * parts))
    return enough if asked < enough <= parts // 2 else asked


def _needed_parts(asked_rate: float, scores: int) -> int:
    """Held-out parts from which limits on so many different scores are counted; with fewer they are fitted."""
    return max(LEAST_HELD_OUT, math.ceil(max(MIN_BLOCKS, scores) / asked_rate - 1e-9) - 1)


def choose_thresholds(
    part_scores: NDArray[np.floating],
    region_scores: NDArray[np.floating],
    regions: Sequence[str],
    *,
    asked_rate: float,
    confidence: float,
) -> ThresholdSet:
    """The limits at which good parts are rejected, by any limit, at no more than the asked rate.

    part_scores: (P,), region_scores: (P, R) of P good parts that were not trained on; regions: the R names.
    asked_rate: in (0, 0.5); confidence: of the stated intervals, in (0.5, 1). The order of the parts does not matter,
    and a higher asked rate never raises a limit. Raises TooFewParts under MIN_PARTS parts, CalibrationError for scores
    that are not finite or shapes that do not fit.
    """
    scores = _checked(part_scores, region_scores, regions, asked_rate, confidence)
    asked = _Asked(asked_rate, confidence, len(scores))
    columns, column_of = _distinct_columns(scores)
    min_blocks = max(MIN_BLOCKS, columns.shape[1])
    # The tolerance keeps 0.01 * 300 from counting as 2 blocks.
    blocks = math.floor(asked_rate * (len(scores) + 1) + 1e-9)
    needed = _needed_parts(asked_rate, columns.shape[1])
    notes = []
    if (columns.min(axis=0) == columns.max(axis=0)).any():
        notes.append("all good parts have the same score: check the camera and the engine")
    if blocks >= min_blocks:
        limits = _conformal(columns, blocks, asked)
    else:
        notes.append(
            f"{len(scores)} good parts are too few to count a false-reject rate of {100 * asked_rate:.3g} %: the "
            f"limits rest on a fitted tail; with {needed} held-out good parts they rest on counting"
        )
        limits = _from_tail(columns, min_blocks, asked)
    return _stated(limits, column_of, regions, asked, notes, needed)


def _stated(  # noqa: PLR0917  (the limits, whose they are, and what is said of them)
    limits: _Limits, column_of: Sequence[int], regions: Sequence[str], asked: _Asked, notes: Sequence[str], needed: int
) -> ThresholdSet:
    """The limits as the manifest has them: counted ones have no upper bound, those from a tail have one."""
    method: Literal["conformal", "tail"] = "conformal" if limits.bounds is None else "tail"
    entries = [
        Threshold(
            value=float(limits.values[column]),
            upper_bound=None if limits.bounds is None else float(limits.bounds[column]),
            method=method,
            asked_rate=asked.rate,
            expected_rate=limits.alone[column].expected,
            low=limits.alone[column].low,
            high=limits.alone[column].high,
            confidence=asked.confidence,
            parts=asked.parts,
        )
        for column in column_of
    ]
    return ThresholdSet(
        part=entries[0],
        regions=dict(zip(regions, entries[1:], strict=True)),
        method=method,
        asked_rate=asked.rate,
        expected_rate=limits.joint.expected,
        low=limits.joint.low,
        high=limits.joint.high,
        confidence=asked.confidence,
        parts=asked.parts,
        needed_parts=needed,
        notes=tuple(notes),
    )


def _checked(
    part: NDArray[np.floating], region: NDArray[np.floating], names: Sequence[str], asked_rate: float, confidence: float
) -> Floats:
    """(P, 1 + R) scores, part first, rows in an order that depends on their values alone."""
    part, region = np.asarray(part, dtype=np.float64), np.asarray(region, dtype=np.float64)
    if part.ndim != 1 or region.shape != (len(part), len(names)):
        raise CalibrationError(f"scores of shape {part.shape} and {region.shape} do not fit {len(names)} regions")
    if not 0 < asked_rate < 0.5 or not 0.5 < confidence < 1:
        raise CalibrationError(f"asked rate {asked_rate} must lie in (0, 0.5), confidence {confidence} in (0.5, 1)")
    if len(part) < MIN_PARTS:
        raise TooFewParts(f"{len(part)} held-out good parts: limits need at least {MIN_PARTS}; record more good parts")
    scores = np.column_stack([part, region])
    if not np.isfinite(scores).all():
        raise CalibrationError("a held-out good part has a score that is not a number; train again")
    ordered: Floats = scores[np.lexsort(scores.T[::-1])]
    return ordered


def _distinct_columns(scores: Floats) -> tuple[Floats, list[int]]:
    """The columns without repetition, and for each column which of those it is.

    A station with one region has its part score twice: one limit serves both, instead of sharing the rate.
    """
    kept: list[int] = []
    column_of = []
    for column in range(scores.shape[1]):
        same = [i for i, other in enumerate(kept) if np.array_equal(scores[:, other], scores[:, column])]
        if not same:
            kept.append(column)
        column_of.append(same[0] if same else len(kept) - 1)
    return scores[:, kept], column_of


def _peel(columns: Floats, blocks: int) -> tuple[Floats, bool]:
    """Cut off statistically equivalent blocks: limits (D,) such that a new good part passes one with rate Beta.

    In turn, each column takes away the remaining part with its highest score; a column's limit is the last score
    that it took. Tukey (1947, Ann. Math. Statist. 18, 529): whatever the joint distribution, the share of parts
    outside all cuts is Beta(blocks, P + 1 - blocks), exactly where scores are continuous and at most so with ties.
    Also says whether a part that was left in ties with a limit.
    """
    remaining = np.ones(len(columns), dtype=bool)
    limits = np.full(columns.shape[1], np.inf)
    for block in range(blocks):
        column = block % columns.shape[1]
        candidates = np.flatnonzero(remaining)
        taken = candidates[np.argmax(columns[candidates, column])]
        remaining[taken] = False
        limits[column] = columns[taken, column]
    tied = bool((columns[remaining] >= limits).any())
    return limits, tied


def _beta(blocks: int, asked: _Asked, tied: bool) -> _Rate:
    """The rate at which a new good part falls into one of `blocks` of the parts + 1 equivalent blocks."""
    distribution = stats.beta(blocks, asked.parts + 1 - blocks)
    low, high = distribution.ppf([(1 - asked.confidence) / 2, (1 + asked.confidence) / 2])
    return _Rate(blocks / (asked.parts + 1), 0.0 if tied else float(low), float(high))


def _conformal(columns: Floats, blocks: int, asked: _Asked) -> _Limits:
    """Each column's own rate is counted as if it had been cut alone."""
    limits, tied = _peel(columns, blocks)
    alone = [
        _beta(min(int((column >= limit).sum()), asked.parts), asked, bool((column == limit).sum() > 1))
        for column, limit in zip(columns.T, limits, strict=True)
    ]
    return _Limits(limits, None, _beta(blocks, asked, tied), alone)


def _from_tail(columns: Floats, min_blocks: int, asked: _Asked) -> _Limits:
    """From a tail fitted to the largest standardised score of each part.

    Each column is standardised by its median and upper spread, so that one number t limits all columns. The limits are
    never below those that counting gives at the lowest rate that it can serve: a lower rate never lowers a limit.
    """
    middle = np.median(columns, axis=0)
    spread = _upper_spread(columns, middle)
    standard = (columns - middle) / spread
    counted, _ = _peel(columns, min(min_blocks, asked.parts))
    floor = float(((counted - middle) / spread).max())
    joint = fit_tail(standard.max(axis=1))
    limit = max(joint.limit(asked.rate), floor)
    bound = max(joint.upper_bound(asked.rate, asked.confidence), limit)
    alone = [_tail_rate(fit_tail(column), limit, asked) for column in standard.T]
    return _Limits(middle + spread * limit, middle + spread * bound, _tail_rate(joint, limit, asked), alone)


def _tail_rate(tail: Tail, limit: float, asked: _Asked) -> _Rate:
    """The lower end is 0: no number of parts rules out that scores end below the limit."""
    expected, high = tail.rate_above(limit, asked.confidence)
    return _Rate(expected, 0.0, max(expected, high))


def _upper_spread(columns: Floats, middle: Floats) -> Floats:
    """(D,) distance from the median to the 90 % quantile; to the maximum where that is 0; 1 for constant columns."""
    spread = np.quantile(columns, 0.9, axis=0) - middle
    spread = np.where(spread > 0, spread, columns.max(axis=0) - middle)
    return np.where(spread > 0, spread, 1.0)
