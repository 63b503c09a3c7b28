"""What goes wrong in a soak run, and when: drawn from the seed, so that a run can be had again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from faulting.board import Injection, Kind

LONGEST_PARTS = 5
CLOCK_JUMP_S = 3600.0


class Outside(StrEnum):
    """Faults of the world around the daemon; those inside it are `faulting.board.Kind`."""

    SUBSCRIBER_STALLED = "subscriber.stalled"
    DATABASE_LOCKED = "database.locked"
    SIGTERM = "daemon.sigterm"
    SIGKILL = "daemon.sigkill"
    BUNDLE_SWAP = "bundle.swap"


@dataclass(frozen=True, slots=True)
class Mishap:
    """One thing that goes wrong once `after_parts` more parts have had their verdict. lasts_s: of those outside."""

    after_parts: int
    what: Outside | Injection
    lasts_s: float = 0.0

    @property
    def name(self) -> str:
        """As the report calls it."""
        return self.what.kind.value if isinstance(self.what, Injection) else self.what.value


WEIGHTS: dict[Outside | Kind, float] = {
    Kind.CAMERA_UNPLUGGED: 1,
    Kind.CAMERA_ERROR: 2,
    Kind.CAMERA_SILENT: 1,
    Kind.CAMERA_FROZEN: 2,
    Kind.CAMERA_DUPLICATE: 2,
    Kind.CAMERA_STALE: 2,
    Kind.CAMERA_TRUNCATED: 2,
    Kind.CAMERA_WRONG_SHAPE: 2,
    Kind.CAMERA_SLOW: 2,
    Kind.ENGINE_FAULT: 2,
    Kind.ENGINE_CRASH: 2,
    Kind.ENGINE_HANG: 1,
    Kind.ENGINE_NAN: 2,
    Kind.ENGINE_REGIONS: 2,
    Kind.ENGINE_SLOW: 2,
    Kind.CLOCK_JUMP: 2,
    Outside.SUBSCRIBER_STALLED: 2,
    Outside.DATABASE_LOCKED: 2,
    Outside.SIGTERM: 2,
    Outside.SIGKILL: 2,
    Outside.BUNDLE_SWAP: 2,
}
"""How often each is drawn, beside the others. Not drawn: an engine that is stuck for good and one that cannot be
loaded; both end the daemon by design, and have tests of their own."""


def mishaps(seed: int, every: int) -> Iterator[Mishap]:
    """Mishaps without end, on average one each `every` parts."""
    generator = random.Random(seed)  # noqa: S311 - a schedule, no secret
    kinds = list(WEIGHTS)
    weights = list(WEIGHTS.values())
    while True:
        after = max(1, round(every * generator.uniform(0.5, 1.5)))
        (kind,) = generator.choices(kinds, weights)
        seconds = generator.uniform(0.5, 3.0)
        if isinstance(kind, Outside):
            yield Mishap(after, kind, seconds)
        else:
            yield Mishap(after, _injection(kind, generator, seconds))


def _injection(kind: Kind, generator: random.Random, seconds: float) -> Injection:
    parts = generator.randint(1, LONGEST_PARTS)
    if kind is Kind.CAMERA_UNPLUGGED:
        return Injection(kind=kind, parts=0, lasts_s=seconds)
    if kind is Kind.CLOCK_JUMP:
        return Injection(kind=kind, amount_s=generator.uniform(-CLOCK_JUMP_S, CLOCK_JUMP_S))
    if kind is Kind.ENGINE_HANG:
        return Injection(kind=kind, parts=1, amount_s=2 * seconds)
    if kind in (Kind.CAMERA_SLOW, Kind.ENGINE_SLOW):
        return Injection(kind=kind, parts=parts, amount_s=seconds / 10)
    return Injection(kind=kind, parts=parts)
