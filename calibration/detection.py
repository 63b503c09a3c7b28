"""What limits catch, beside what they spare: made defects at the limit, and what the oddest good parts cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.fitted import Doubles, Fitted
from calibration.made_defects import KINDS, SIZES, MadeDefect
from calibration.threshold import choose_thresholds
from engines.artifact import ThresholdSet
from engines.settings import RegionSettings

CURVE_RATES: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
SHOWN_ODD: Final = 6
WORTH_IT: Final = 0.05
"""Share of the made defects that a higher false-reject rate must catch beyond, to be worth a line."""
MOST_ASKED: Final = 3
"""Odd parts that a person is asked about, or warned of."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What limits are chosen for: the tolerated false-reject rate, the confidence of intervals, the regions' names."""

    rate: float
    confidence: float
    regions: tuple[str, ...]

    @staticmethod
    def of(rate: float, confidence: float, regions: Sequence[RegionSettings]) -> Asked:
        """For these regions."""
        return Asked(rate, confidence, tuple(region.name for region in regions))

    def limits(self, region_scores: Doubles, rate: float | None = None) -> ThresholdSet:
        """Limits on region scores (P, R) of good parts, for the asked rate or another; the part score is their highest.

        Raises TooFewParts.
        """
        return choose_thresholds(
            region_scores.max(axis=1),
            region_scores,
            self.regions,
            asked_rate=self.rate if rate is None else rate,
            confidence=self.confidence,
        )


@dataclass(frozen=True, slots=True)
class Caught:
    """How many of how many made defects are rejected."""

    caught: int
    made: int

    @property
    def rate(self) -> float:
        """Share of 1; 0 where none was made."""
        return self.caught / self.made if self.made else 0.0


@dataclass(frozen=True, slots=True)
class OddPart:
    """A good part far from the others. index: position among the held-out parts; score: its left-out part score.

    limit, caught: of the part score, and the share of made defects above any limit, as they are; limit_without and
    caught_without: were this part, and those that are odder, no good parts. stands_out: it lies beyond the limit that
    the others alone would have.
    """

    index: int
    score: float
    limit: float
    limit_without: float
    caught: float
    caught_without: float
    stands_out: bool


def rejected(region_scores: Doubles, limits: ThresholdSet) -> NDArray[np.bool_]:
    """Which parts with these region scores (P, R) any limit rejects, (P,)."""
    by_region = np.array([limit.value for limit in limits.regions.values()])
    found: NDArray[np.bool_] = (region_scores > by_region).any(axis=1) | (region_scores.max(axis=1) > limits.part.value)
    return found


def caught_by(
    defects: Sequence[MadeDefect], found: NDArray[np.bool_]
) -> tuple[Caught, dict[str, Caught], dict[tuple[str, str], Caught]]:
    """Made defects rejected: of all, by size, and by kind and size; found: (Q,) whether each was."""

    def count(chosen: NDArray[np.bool_]) -> Caught:
        return Caught(int(found[chosen].sum()), int(chosen.sum()))

    kinds = np.array([defect.kind for defect in defects])
    sizes = np.array([defect.size for defect in defects])
    return (
        count(np.ones(len(defects), np.bool_)),
        {size: count(sizes == size) for size in SIZES},
        {(kind, size): count((kinds == kind) & (sizes == size)) for kind in KINDS for size in SIZES},
    )


def even_share(sizes: Sequence[str], found: NDArray[np.bool_]) -> float:
    """Share of made defects that are rejected, each size counting the same; sizes, found: of each defect."""
    named = np.array(sizes)
    return float(np.mean([found[named == size].mean() for size in np.unique(named)])) if len(named) else 0.0


def curve(fitted: Fitted, asked: Asked) -> NDArray[np.float64]:
    """(N, 2): expected false-reject rate, and share of made defects caught, over CURVE_RATES and the asked rate."""
    rows = []
    for rate in sorted({*CURVE_RATES, asked.rate}):
        limits = asked.limits(fitted.region_scores, rate)
        rows.append((limits.expected_rate, float(rejected(fitted.defect_scores, limits).mean())))
    return np.array(rows)


def catching_in_words(fitted: Fitted, asked: Asked) -> tuple[str, ...]:
    """What the limits catch of the made defects, and what a higher false-reject rate would; nothing without any."""
    if not fitted.defects:
        return ()
    whole, by_size, _ = caught_by(fitted.defects, rejected(fitted.defect_scores, asked.limits(fitted.region_scores)))
    sizes = ", ".join(f"{size} {caught.rate:.0%}" for size, caught in by_size.items())
    said = [f"of the made defects {whole.rate:.0%} are caught at these limits ({sizes})"]
    for rate, share in curve(fitted, asked):
        if rate > asked.rate and share >= whole.rate + WORTH_IT:
            said.append(
                f"a false-reject rate of {rate:.1%} would catch {share:.0%} of them: calibration.false_reject_rate"
            )
            break
    return tuple(said)


def odd_parts(fitted: Fitted, asked: Asked, most: int = SHOWN_ODD) -> tuple[OddPart, ...]:
    """The good parts with the highest left-out scores, the oddest first, and what each costs."""
    order = np.argsort(fitted.part_scores)[::-1]
    limits = asked.limits(fitted.region_scores)
    caught = _share(fitted, limits)
    found = []
    outside = True
    for place in range(min(most, len(order) - 5)):
        index = int(order[place])
        without = asked.limits(np.delete(fitted.region_scores, order[: place + 1], axis=0))
        outside = outside and fitted.part_scores[index] > (without.part.upper_bound or without.part.value)
        found.append(
            OddPart(
                index=index,
                score=float(fitted.part_scores[index]),
                limit=limits.part.value,
                limit_without=without.part.value,
                caught=caught,
                caught_without=_share(fitted, without),
                stands_out=bool(outside),
            )
        )
    return tuple(found)


def _share(fitted: Fitted, limits: ThresholdSet) -> float:
    return float(rejected(fitted.defect_scores, limits).mean()) if len(fitted.defect_scores) else 0.0


def odd_in_words(name: str, odd: OddPart) -> str:
    """One sentence for a person who decides whether a part is good."""
    return (
        f"good part {name} is far from all others: left-out score {odd.score:.3g}. Without it the limit would be "
        f"{odd.limit_without:.3g} in place of {odd.limit:.3g}, and {odd.caught_without:.0%} in place of "
        f"{odd.caught:.0%} of the made defects would be caught. Look at it: if it is no good part, leave it out with "
        "--exclude"
    )
