"""What is to go wrong, and what did: the injectors take faults from the board, the control socket puts them there."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from threading import Condition

MAX_SECONDS = 86_400.0 * 366
MAX_PARTS = 1_000_000
REMEMBERED = 256


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

    def is_over(self, now_s: float) -> bool:
        """Whether it spoils nothing any more."""
        wanted = self.injection
        used_up = bool(wanted.parts) and self.taken >= wanted.parts
        return used_up or bool(wanted.lasts_s and now_s - self.first_s > wanted.lasts_s)


class Board:
    """Faults by number, in the order in which they were armed; safe across threads.

    One that is over is dropped, and of the last `REMEMBERED` it is still known how often they happened: a run of days
    arms more than may be looked through for each part.
    """

    def __init__(self) -> None:
        self._armed: dict[int, _Armed] = {}
        self._over: dict[int, _Armed] = {}
        self._next = 0
        self._changed = Condition()

    def arm(self, injection: Injection) -> int:
        """Let it happen from now on; returns its number."""
        with self._changed:
            number, self._next = self._next, self._next + 1
            self._armed[number] = _Armed(injection)
            return number

    def take(self, kinds: Collection[Kind]) -> Injection | None:
        """The oldest fault of these kinds that is not over, which happens now; None where all is well."""
        with self._changed:
            now_s = time.monotonic()
            self._drop([number for number, armed in self._armed.items() if armed.is_over(now_s)])
            for armed in self._armed.values():
                if armed.injection.kind in kinds:
                    armed.taken += 1
                    armed.first_s = min(armed.first_s, now_s)
                    self._changed.notify_all()
                    return armed.injection
            return None

    def clear(self) -> None:
        """End every fault; steps that hang go on hanging."""
        with self._changed:
            self._drop(list(self._armed))

    def taken(self, number: int, at_least: int, timeout_s: float) -> int:
        """How often the fault has happened; blocks until `at_least` times, or for `timeout_s`. Raises ValueError."""
        with self._changed:
            armed = self._armed.get(number) or self._over.get(number)
            if armed is None:
                raise ValueError(f"no fault has the number {number}, or it was over long ago")
            self._changed.wait_for(lambda: armed.taken >= at_least, timeout_s)
            return armed.taken

    def _drop(self, over: list[int]) -> None:
        """Forget all but the last of those that are over."""
        for number in over:
            self._over[number] = self._armed.pop(number)
        while len(self._over) > REMEMBERED:
            del self._over[next(iter(self._over))]
