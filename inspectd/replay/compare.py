"""Two answers on the same parts -> which verdicts changed, and how far the scores moved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from inspectd.messages import Outcome, Reason
from inspectd.records.rows import StoredPart
from inspectd.replay.footage import FootagePart
from inspectd.replay.line import Replayed

NOT_IN_TIME = frozenset(
    {
        Reason.LATE,
        Reason.NO_FRAME,
        Reason.STALE_FRAME,
        Reason.CAMERA_LOST,
        Reason.REPEATED_IMAGE,
        Reason.OVERLOAD,
        Reason.SHUTTING_DOWN,
    }
)
"""Why the line could not judge a part whatever it looked like: a replay, which has no deadlines, can."""


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of a part: verdict, reason, part score (None where there is none) and its limit (may be NaN)."""

    outcome: Outcome
    reason: Reason
    part_score: float | None
    limit: float


@dataclass(frozen=True, slots=True)
class Change:
    """One part on which two answers differ."""

    part: FootagePart
    old: Said
    new: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two answers on the same parts.

    changed: other verdicts. judged_now: parts that the line could not judge in time and the replay did. unmatched:
    replayed parts without an older answer. rank_correlation: Spearman's, of the part scores, None for fewer than two.
    largest_shift: largest |new - old| of a part score, as a share of max(|old|, |its limit|).
    """

    compared: int
    changed: tuple[Change, ...]
    judged_now: tuple[Change, ...]
    unmatched: int
    rank_correlation: float | None
    largest_shift: float


@dataclass(slots=True)
class _Rows:
    """What the records say, by everything that a part can be recognised by; later rows take the place of earlier."""

    by_name: dict[str, list[StoredPart]] = field(default_factory=dict)
    by_source: dict[str, StoredPart] = field(default_factory=dict)
    by_file_name: dict[str, set[str]] = field(default_factory=dict)

    def add(self, row: StoredPart) -> None:
        self.by_name.setdefault(row.verdict.part_id, []).append(row)
        if row.source:
            self.by_source[row.source] = row
            self.by_file_name.setdefault(PurePath(row.source).name, set()).add(row.source)


def against_records(replayed: Sequence[Replayed], records: Iterable[StoredPart]) -> Comparison:
    """Compare a replay with what was recorded.

    A part is recognised by its part_id where the footage knows it (and by its number where a part_id was used again),
    else by its source, else by its file's name where only one file has that name. A part_id whose source is another
    one in the records is another part. Of several records of one part the newest counts.
    """
    rows = _Rows()
    for row in records:
        rows.add(row)
    names = Counter(PurePath(item.part.file).name for item in replayed)
    pairs = []
    for item in replayed:
        row_found = _find(rows, item.part, alone=names[PurePath(item.part.file).name] == 1)
        pairs.append((item.part, None if row_found is None else _recorded(row_found), _replayed(item)))
    return _compare(pairs)


def between(old: Sequence[Replayed], new: Sequence[Replayed]) -> Comparison:
    """Compare two replays of the same footage, part by part. Raises ValueError where they differ in length."""
    return _compare([(was.part, _replayed(was), _replayed(now)) for was, now in zip(old, new, strict=True)])


def _find(rows: _Rows, part: FootagePart, *, alone: bool) -> StoredPart | None:
    if part.named:
        same = [row for row in rows.by_name.get(part.part_id, []) if row.source in {"", part.source, part.file}]
        if same:
            return next((row for row in same if row.verdict.seq == part.seq), same[-1])
    for source in (part.source, part.file):
        if source in rows.by_source:
            return rows.by_source[source]
    sources = rows.by_file_name.get(PurePath(part.file).name, set())
    return rows.by_source[next(iter(sources))] if alone and len(sources) == 1 else None


def _recorded(row: StoredPart) -> Said:
    """What the line said; late scores count as scores."""
    verdict = row.verdict
    score = verdict.part_score if verdict.part_score is not None or row.late is None else row.late.part_score
    return Said(verdict.outcome, verdict.reason, score, verdict.thresholds.part)


def _replayed(item: Replayed) -> Said:
    verdict = item.record.verdict
    return Said(verdict.outcome, verdict.reason, verdict.part_score, verdict.thresholds.part)


def _compare(pairs: Sequence[tuple[FootagePart, Said | None, Said]]) -> Comparison:
    changed, judged_now, scores = [], [], []
    compared = 0
    for part, old, new in pairs:
        if old is None:
            continue
        compared += 1
        if old.part_score is not None and new.part_score is not None:
            scores.append((old.part_score, new.part_score, old.limit))
        if old.reason in NOT_IN_TIME and new.reason not in NOT_IN_TIME:
            judged_now.append(Change(part, old, new))
        elif old.outcome is not new.outcome:
            changed.append(Change(part, old, new))
    return Comparison(
        compared=compared,
        changed=tuple(changed),
        judged_now=tuple(judged_now),
        unmatched=len(pairs) - compared,
        rank_correlation=_rank_correlation(np.array([pair[:2] for pair in scores])),
        largest_shift=max((_shift(*pair) for pair in scores), default=0.0),
    )


def _shift(old: float, new: float, limit: float) -> float:
    scale = max(abs(old), 0.0 if math.isnan(limit) else abs(limit))
    return abs(new - old) / scale if scale else float(new != old)


def _rank_correlation(pairs: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation of (P, 2) scores, equal scores sharing their mean rank; 1 where the ranks agree."""
    if len(pairs) < 2:
        return None
    old, new = (_ranks(pairs[:, column]) for column in (0, 1))
    if np.array_equal(old, new):
        return 1.0
    if np.ptp(old) == 0 or np.ptp(new) == 0:
        return 0.0
    return float(np.corrcoef(old, new)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank: NDArray[np.float64] = ends - (counts - 1) / 2
    return mean_rank[group]
