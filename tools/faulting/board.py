"""What is to go wrong, and what did: the injectors take faults from the board, the control socket puts them there."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Condition

MAX_SECONDS = 86_400.0 * 366
MAX_PARTS = 1_000_000


class Kind(StrEnum):
    """What can go wrong; docs/faults.md says what the line sees of each."""

    CAMERA_UNPLUGGED = "camera.unplugged"
    CAMERA_ERROR = "camera.error"
    CAMERA_SILENT = "camera.silent"
    CAMERA_FROZEN = "camera.frozen"
    CAMERA_DUPLICATE = "camera.duplicate"
    CAMERA_STALE = "camera.stale"
    CAMERA_TRUNCATED = "camera.truncated"
    CAMERA_WRONG_SHAPE = "camera.wrong_shape"
    CAMERA_SLOW = "camera.slow"
    ENGINE_FAULT = "engine.fault"
    ENGINE_CRASH = "engine.crash"
    ENGINE_HANG = "engine.hang"
    ENGINE_STUCK = "engine.stuck"
    ENGINE_NAN = "engine.nan"
    ENGINE_REGIONS = "engine.regions"
    ENGINE_SLOW = "engine.slow"
    ENGINE_LOAD = "engine.load"
    CLOCK_JUMP = "clock.jump"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault.

    parts: how many images, inferences or loads it spoils, 0: no limit. lasts_s: counted from the first of them, 0: no
    limit. amount_s: how long a slow or hanging step takes (0: for ever, where it hangs), how far the clock jumps.
    """

    kind: Kind
    parts: int = 1
    lasts_s: float = 0.0
    amount_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.parts <= MAX_PARTS:
            raise ValueError(f"parts {self.parts}: must be 0 to {MAX_PARTS}")
        if not (0 <= self.lasts_s <= MAX_SECONDS and abs(self.amount_s) <= MAX_SECONDS):
            raise ValueError(f"lasts_s {self.lasts_s}, amount_s {self.amount_s}: seconds, at most {MAX_SECONDS:g}")


@dataclass(slots=True)
class _Armed:
    injection: Injection
    taken: int = 0
    first_s: float = math.inf
    cleared: bool = field(default=False)

    def is_over(self, now_s: float) -> bool:
        """Whether it spoils nothing any more."""
        wanted = self.injection
        used_up = bool(wanted.parts) and self.taken >= wanted.parts
        return self.cleared or used_up or bool(wanted.lasts_s and now_s - self.first_s > wanted.lasts_s)


class Board:
    """Faults by number, in the order in which they were armed; safe across threads."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._changed = Condition()

    def arm(self, injection: Injection) -> int:
        """Let it happen from now on; returns its number."""
        with self._changed:
            self._armed.append(_Armed(injection))
            return len(self._armed) - 1

    def take(self, kinds: Collection[Kind]) -> Injection | None:
        """The oldest fault of these kinds that is not over, which happens now; None where all is well."""
        with self._changed:
            now_s = time.monotonic()
            for armed in self._armed:
                if armed.injection.kind in kinds and not armed.is_over(now_s):
                    armed.taken += 1
                    armed.first_s = min(armed.first_s, now_s)
                    self._changed.notify_all()
                    return armed.injection
            return None

    def clear(self) -> None:
        """End every fault; steps that hang go on hanging."""
        with self._changed:
            for armed in self._armed:
                armed.cleared = True
            self._changed.notify_all()

    def taken(self, number: int, at_least: int, timeout_s: float) -> int:
        """How often the fault has happened; blocks until `at_least` times, or for `timeout_s`. Raises ValueError."""
        with self._changed:
            if not 0 <= number < len(self._armed):
                raise ValueError(f"no fault has the number {number}")
            armed = self._armed[number]
            self._changed.wait_for(lambda: armed.taken >= at_least, timeout_s)
            return armed.taken

    def report(self) -> list[dict[str, object]]:
        """Every fault that was armed: kind, how often it happened, whether it is over."""
        with self._changed:
            now_s = time.monotonic()
            return [
                {"kind": armed.injection.kind.value, "taken": armed.taken, "over": armed.is_over(now_s)}
                for armed in self._armed
            ]
