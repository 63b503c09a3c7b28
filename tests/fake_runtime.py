"""FakeRuntime: a runtime without a network, for tests of what stands around one. Not a test module."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineFault, EngineTimeout
from engines.runtimes import Outputs, RuntimeInfo


def brightness(image: NDArray[np.uint8]) -> float:
    """The default score: mean grey value in [0, 1]."""
    return float(image.mean()) / 255


@dataclass
class FakeSlot:
    """Scores with a plain function; every inference lasts `takes_s`, and until `hold` is set."""

    regions: int
    score: Callable[[NDArray[np.uint8]], float]
    input: NDArray[np.uint8]
    hold: Event | None = None
    takes_s: float = 0.0
    fault: str = ""
    inferred: int = 0
    _map: NDArray[np.float32] = field(default_factory=lambda: np.zeros((32, 32), np.float32))

    def start(self) -> None:
        """Begin; fails where a fault is set."""
        if self.fault:
            raise EngineFault(self.fault)
        self.inferred += 1

    def wait(self, timeout_s: float) -> Outputs:
        """Answer after `takes_s`, when `hold` is set too, or fail after `timeout_s`."""
        time.sleep(self.takes_s)
        if self.hold is not None and not self.hold.wait(timeout_s):
            raise EngineTimeout(f"no answer within {timeout_s:g} s")
        score = self.score(self.input)
        return Outputs(score, np.full(self.regions, score, np.float32), self._map, None)


class FakeRuntime:
    """One slot, no engine behind it."""

    def __init__(
        self,
        *,
        shape: tuple[int, int, int] = (128, 128, 3),
        regions: int = 3,
        score: Callable[[NDArray[np.uint8]], float] = brightness,
        hold: Event | None = None,
        takes_s: float = 0.0,
    ) -> None:
        self.slot = FakeSlot(regions, score, np.zeros(shape, np.uint8), hold, takes_s)
        self.info = RuntimeInfo("fake", "1", "f32", "none")

    @property
    def slots(self) -> Sequence[FakeSlot]:
        """The only slot."""
        return (self.slot,)

    def close(self) -> None:
        """Nothing to free."""


def spin(duration_ms: float) -> None:
    """Keep the processor busy for so long, as an engine does."""
    end_s = time.perf_counter() + duration_ms / 1e3
    while time.perf_counter() < end_s:
        pass
