"""Pictures of more than 8 bits -> 8 bits, by two grey levels that are fixed once for a bundle.

A camera of 10, 12 or 16 bits rarely uses its whole range: a thermal image may lie between 20 000 and 24 000. Its upper
8 bits hold next to nothing then. So calibration takes the range of the good parts, and the line uses the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engines.settings import Settings

DEEP_LEVELS: Final = 1 << 16
TAIL_SHARE: Final = 1e-4
"""Of all pixels, at each end, that a range may leave out: hot and dead pixels say nothing of the part."""
MARGIN_SHARE: Final = 0.1
"""Of the range, added at each end: defects may be darker or brighter than any good part."""


class Levels(Settings):
    """Which grey level of 0..65535 becomes 0 and which becomes 255; in between evenly, beyond them the same."""

    black: int = Field(ge=0, lt=DEEP_LEVELS, description="grey level (of 65536) that becomes black")
    white: int = Field(ge=1, lt=DEEP_LEVELS, description="grey level (of 65536) that becomes white")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.black >= self.white:
            raise ValueError(f"black {self.black} is not below white {self.white}")
        return self

    @classmethod
    def of(cls, frames: Iterable[NDArray[np.uint16]]) -> Self:
        """The range of these frames, any shape, but for TAIL_SHARE of their pixels, with MARGIN_SHARE at each end."""
        counts = np.zeros(DEEP_LEVELS, np.int64)
        for frame in frames:
            counts += np.bincount(frame.reshape(-1), minlength=DEEP_LEVELS)
        share = np.cumsum(counts) / counts.sum()
        low = int(np.searchsorted(share, TAIL_SHARE, "right"))
        high = int(np.searchsorted(share, 1 - TAIL_SHARE, "left"))
        margin = max(round(MARGIN_SHARE * (high - low)), 1)
        return cls(black=max(low - margin, 0), white=min(high + margin, DEEP_LEVELS - 1))

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """The 8-bit value of each of the 65536 grey levels."""
        span = self.white - self.black
        inside = np.clip(np.arange(DEEP_LEVELS, dtype=np.int64) - self.black, 0, span)
        return np.asarray((inside * 255 + span // 2) // span, np.uint8)


def to_8_bits(pixels: NDArray[Any], levels: Levels | None = None) -> NDArray[np.uint8]:
    """uint16 by `levels`, or its upper 8 bits where there are none; uint8 as it is. Any shape."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.asarray(pixels >> 8, np.uint8) if levels is None else levels.table[pixels]
