"""Challenges in the records: which known-bad parts were shown to the station, and whether each was rejected."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from inspectd.errors import StorageError
from inspectd.messages import Outcome, Verdict
from inspectd.records.chain import Kind
from inspectd.records.database import open_for_reading
from inspectd.records.ledger import Note

NEVER_CAME = "never_came"
"""The outcome of an announced challenge part for which no trigger came in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengePart:
    """One known-bad part. outcome: of its verdict, or NEVER_CAME. seq: of a part on the line, None of an image."""

    name: str
    outcome: str
    reason: str = ""
    detail: str = ""
    label: str = ""
    part_score: float | None = None
    seq: int | None = None

    @property
    def rejected(self) -> bool:
        """Whether it is proven: judged, and found bad. INVALID proves nothing, although the line may have taken it."""
        return self.outcome == Outcome.REJECT.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge. way: parts on the running line, or images through the same stages. source: where images lay."""

    way: Literal["line", "images"]
    by: str
    bundle_hash: str
    begun_wall_ns: int
    ended_wall_ns: int
    parts: tuple[ChallengePart, ...]
    source: str = ""

    @property
    def passed(self) -> bool:
        """Whether every part was rejected, and there was one."""
        return bool(self.parts) and all(part.rejected for part in self.parts)


def part_of(verdict: Verdict, name: str, *, on_line: bool) -> ChallengePart:
    """What a verdict says of a challenge part."""
    return ChallengePart(
        name=name,
        outcome=verdict.outcome.value,
        reason=verdict.reason.value,
        detail=verdict.detail,
        label=verdict.label,
        part_score=verdict.part_score,
        seq=verdict.seq if on_line else None,
    )


def to_note(challenge: Challenge) -> Note:
    """The entry of the records' chain that speaks for a challenge."""
    seqs = [part.seq for part in challenge.parts if part.seq is not None]
    content = {**asdict(challenge), "passed": challenge.passed}
    return Note(Kind.CHALLENGE, min(seqs, default=0), max(seqs, default=0), json.dumps(content, allow_nan=False))


def read_challenges(path: Path) -> list[Challenge]:
    """The challenges in a records.db, or in the one in a station's folder, oldest first. Raises StorageError."""
    try:
        with closing(open_for_reading(path)) as connection:
            query = "SELECT detail FROM events WHERE kind = ? ORDER BY entry"
            rows = connection.execute(query, (Kind.CHALLENGE.value,)).fetchall()
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    try:
        return [_challenge(detail) for (detail,) in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: a challenge cannot be read: {error}") from error


def _challenge(detail: str) -> Challenge:
    found = json.loads(detail)
    del found["passed"]
    return Challenge(**{**found, "parts": tuple(ChallengePart(**part) for part in found["parts"])})
