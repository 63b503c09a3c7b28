"""Challenges on the running line: which of the coming parts are known to be bad, and what became of them.

A challenge changes no verdict and no action. A question begins it; its parts are marked in results and records.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import structlog

from inspectd.errors import InspectdError, StorageError
from inspectd.messages import Record
from inspectd.records.challenges import NEVER_CAME, Challenge, ChallengePart, part_of, read_challenges, to_note
from inspectd.records.ledger import Ledger, Note
from inspectd.wire.public import Json

log = structlog.get_logger(__name__)
GRACE_NS = 10_000_000_000
REFRESH_S = 60.0
NS_PER_S = 1_000_000_000


class ChallengeRefused(InspectdError):
    """Another challenge has not ended."""


@dataclass(slots=True)
class _Open:
    """A challenge that goes on: part `first_seq` + i is names[i], if its trigger comes before `ends_ns`."""

    first_seq: int
    names: tuple[str, ...]
    by: str
    ends_ns: int
    begun_wall_ns: int
    bundle_hash: str
    seen: dict[str, ChallengePart] = field(default_factory=dict)


class ChallengeDesk:
    """Begun by the query stage, asked by the gate, fed by the record stage; safe across threads.

    upcoming: the number that the next trigger gets. bundle_hash: of the bundle that judges.
    """

    def __init__(self, upcoming: Callable[[], int], bundle_hash: str) -> None:
        self._upcoming = upcoming
        self._bundle_hash = bundle_hash
        self._lock = Lock()
        self._open: _Open | None = None

    def judged_by(self, bundle_hash: str) -> None:
        """Another bundle judges from now on."""
        self._bundle_hash = bundle_hash

    def begin(self, names: Sequence[str], by: str, patience_s: float) -> tuple[int, int]:
        """The next parts are these known-bad ones, in this order; returns the first and last number.

        Ends with the last of them, or `patience_s` from now. Raises ChallengeRefused while another one goes on.
        """
        with self._lock:
            now_ns = time.monotonic_ns()
            if self._open is not None and now_ns <= self._open.ends_ns + GRACE_NS:
                raise ChallengeRefused(f"a challenge by {self._open.by} goes on: wait for its end")
            first_seq = self._upcoming()
            self._open = _Open(
                first_seq=first_seq,
                names=tuple(names),
                by=by,
                ends_ns=now_ns + round(patience_s * NS_PER_S),
                begun_wall_ns=time.time_ns(),
                bundle_hash=self._bundle_hash,
            )
        return first_seq, first_seq + len(names) - 1

    def name_of(self, seq: int, trigger_ns: int) -> str:
        """The name of a challenge part, empty for an ordinary one."""
        challenge = self._open
        if challenge is None or trigger_ns > challenge.ends_ns:
            return ""
        index = seq - challenge.first_seq
        return challenge.names[index] if 0 <= index < len(challenge.names) else ""

    def take(self, record: Record) -> list[Note]:
        """See a part that is recorded; returns the entry of the challenge that is complete, or out of time, with it."""
        verdict = record.verdict
        with self._lock:
            challenge = self._open
            if challenge is None:
                return []
            if verdict.challenge:
                challenge.seen[verdict.challenge] = part_of(verdict, verdict.challenge, on_line=True)
                challenge.bundle_hash = verdict.bundle_hash
            over = verdict.trigger_ns > challenge.ends_ns + GRACE_NS
            if len(challenge.seen) < len(challenge.names) and not over:
                return []
            self._open = None
        ended = _ended(challenge, verdict.trigger_wall_ns + verdict.verdict_ns - verdict.trigger_ns)
        log.warning("a challenge has ended", by=ended.by, passed=ended.passed, parts=len(ended.parts))
        return [to_note(ended)]

    def close(self, ledger: Ledger) -> None:
        """The daemon stops: write what there is of an open challenge; what the disk refuses is logged."""
        with self._lock:
            challenge, self._open = self._open, None
        if challenge is None:
            return
        try:
            ledger.write([to_note(_ended(challenge, time.time_ns()))])
        except (sqlite3.Error, OSError) as error:
            log.error("a challenge that the stop cut short is not recorded", by=challenge.by, why=str(error))


def _ended(challenge: _Open, wall_ns: int) -> Challenge:
    never = {name: ChallengePart(name=name, outcome=NEVER_CAME) for name in challenge.names}
    return Challenge(
        way="line",
        by=challenge.by,
        bundle_hash=challenge.bundle_hash,
        begun_wall_ns=challenge.begun_wall_ns,
        ended_wall_ns=wall_ns,
        parts=tuple({**never, **challenge.seen}.values()),
    )


class ChallengeReminder:
    """Degrades health where the running bundle has not passed a challenge for too long; safe across threads.

    every_hours: None for no reminder. folder: the station's records, looked at once a minute at most.
    """

    def __init__(self, folder: Path, bundle_hash: str, every_hours: float | None) -> None:
        self._folder, self._bundle_hash = folder, bundle_hash
        self._every_hours = every_hours
        self._passed_wall_ns: int | None = None
        self._next_s = 0.0

    def judged_by(self, bundle_hash: str) -> None:
        """Another bundle judges from now on: what counts are the challenges that it has passed."""
        self._bundle_hash = bundle_hash
        self._passed_wall_ns, self._next_s = None, 0.0

    def refresh(self) -> None:
        """Look into the records for the last challenge that this bundle passed; blocks for the disk."""
        if self._every_hours is None or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + REFRESH_S
        try:
            challenges = read_challenges(self._folder)
        except StorageError:
            return  # the record stage says what is wrong with the records
        passed = [each.ended_wall_ns for each in challenges if each.passed and each.bundle_hash == self._bundle_hash]
        self._passed_wall_ns = max(passed, default=None)

    def worries(self) -> list[str]:
        """One line where a challenge is due."""
        if self._every_hours is None:
            return []
        if self._passed_wall_ns is None:
            return ["no challenge has been passed with this bundle: `inspectd challenge`"]
        hours = (time.time_ns() - self._passed_wall_ns) / (3600 * NS_PER_S)
        if hours <= self._every_hours:
            return []
        return [f"the last challenge was passed {hours:.1f} hours ago, due every {self._every_hours:g}"]

    def report(self) -> Json:
        """The reminder in the health message."""
        passed = self._passed_wall_ns
        stamp = None if passed is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(passed // NS_PER_S))
        return {"every_hours": self._every_hours, "passed_at": stamp}
