"""What the engine said of each labelled part, and the table of it: one row for each part in a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.dataset import GOOD, Sample
from calibration.whole_file import replacing
from engines.artifact import ThresholdSet
from engines.settings import RegionSettings


class ErrorKind(StrEnum):
    """How a verdict differs from the label; the values are those of the table's column `error`."""

    NONE = ""
    MISSED = "missed"
    WRONGLY_REJECTED = "wrongly rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPart:
    """One labelled part and its verdict. Where it is INVALID, `reason` says why and there are no scores.

    rejected: whether the line rejects it, which it does with what is INVALID, too. part_score: NaN where INVALID.
    region_scores: in the order of `Limits.regions`, empty where INVALID.
    """

    sample: Sample
    rejected: bool
    reason: str = ""
    part_score: float = math.nan
    region_scores: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """PASS, REJECT or INVALID."""
        return "INVALID" if self.reason else ("REJECT" if self.rejected else "PASS")

    @property
    def error(self) -> ErrorKind:
        """Whether it is a defect that passes, or a good part that the line rejects."""
        if self.rejected == (self.sample.label != GOOD):
            return ErrorKind.NONE
        return ErrorKind.WRONGLY_REJECTED if self.rejected else ErrorKind.MISSED


@dataclass(frozen=True, slots=True)
class Decider:
    """The score of a part that is nearest to rejecting it, or is farthest beyond its limit.

    region: its name, "" for the part score. margin: (score - limit) / |limit|, positive where it rejects; where the
    limit is 0, score - limit.
    """

    region: str
    score: float
    limit: float
    margin: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that verdicts come from: of the part score, and (name, limit) of each region score."""

    part: float
    regions: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, thresholds: ThresholdSet, regions: Sequence[RegionSettings]) -> Limits:
        """Those of a bundle, in the order of `regions`. Raises KeyError for a region without a limit."""
        return cls(thresholds.part.value, tuple((each.name, thresholds.regions[each.name].value) for each in regions))

    def reject(self, part_score: float, region_scores: Sequence[float] | NDArray[np.floating]) -> bool:
        """Whether any limit is passed. A score at its limit passes the part."""
        pairs = zip(region_scores, self.regions, strict=True)
        return part_score > self.part or any(float(score) > limit for score, (_, limit) in pairs)

    def decider(self, part: JudgedPart) -> Decider:
        """Which of the scores of an inspected part decides. Raises ValueError where the part is INVALID."""
        if part.reason:
            raise ValueError(f"{part.sample.path}: an INVALID part has no scores")
        found = [("", part.part_score, self.part)]
        found += [(name, score, limit) for score, (name, limit) in zip(part.region_scores, self.regions, strict=True)]
        return max(
            (Decider(name, score, limit, (score - limit) / (abs(limit) or 1.0)) for name, score, limit in found),
            key=lambda each: each.margin,
        )


def readable(text: str) -> str:
    """The text where UTF-8 has it; else with \\udcff for the byte ff of a file name that is no UTF-8, and the like."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_part_table(path: Path, parts: Sequence[JudgedPart], limits: Limits) -> None:
    """Write one row for each part, in their order, as CSV in UTF-8 (docs/datasets.md); whole or not at all.

    Scores are written with all their digits, so that they compare with the limits as the verdict did. Blocks for the
    disk. Raises OSError.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_header(limits))
        writer.writerows(_row(part, limits) for part in parts)


def _header(limits: Limits) -> Iterator[str]:
    yield from ("path", "label", "verdict", "reason", "error", "part_score", "part_limit")
    for name, _ in limits.regions:
        # The prefix keeps a region called `part` apart from the part itself.
        yield from (f"region_{name}_score", f"region_{name}_limit")


def _row(part: JudgedPart, limits: Limits) -> list[str | float]:
    row: list[str | float] = [readable(str(part.sample.path)), readable(part.sample.label)]
    row += [part.verdict, part.reason, part.error.value, "" if part.reason else part.part_score, limits.part]
    for index, (_, limit) in enumerate(limits.regions):
        row += ["" if part.reason else part.region_scores[index], limit]
    return row
