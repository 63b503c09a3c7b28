"""Log lines that a flood must not repeat: one a second at most, with how often it would have been."""

from __future__ import annotations

import time
from typing import Final

PERIOD_NS: Final = 1_000_000_000


class Seldom:
    """Counts what happens, and says once a second how often. Used by one thread."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._untold = 0

    def told(self, more: int = 1) -> int | None:
        """How often it happened since it was told last, this time included, where a second has passed; else None."""
        self._untold += more
        now_ns = time.monotonic_ns()
        if self._last_ns is not None and now_ns - self._last_ns < PERIOD_NS:
            return None
        self._last_ns = now_ns
        count, self._untold = self._untold, 0
        return count
