"""Good parts of more than 8 bits: which grey levels become black and white, and how many a part really has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.errors import DataError
from calibration.images import load_frame, stored_bits
from engines.pictures import Levels

DEEP_BITS: Final = 9
FEW_LEVELS: Final = 64
"""Different grey levels of a part below which little can be learnt from it."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class GreyLevels:
    """levels: for the bundle. distinct: different grey levels of a usual part (the median of all)."""

    levels: Levels
    distinct: int

    @property
    def seen(self) -> str:
        """One line for people."""
        chosen = f"{{black: {self.levels.black}, white: {self.levels.white}}}"
        return (
            f"images of more than 8 bits: a part has {self.distinct} different grey levels; levels: {chosen} spreads "
            "them over the 256 that scores are computed on, and the line uses the same"
        )

    @property
    def warning(self) -> str:
        """One line where a part has too few grey levels, else empty."""
        if self.distinct >= FEW_LEVELS:
            return ""
        return (
            f"a good part has only {self.distinct} different grey levels: little can be learnt from them; raise "
            "exposure or gain, or save the camera's own bits"
        )


def grey_levels(paths: Sequence[Path], fixed: Levels | None, progress: Progress) -> GreyLevels | None:
    """Of the good parts in these files; None where all have 8 bits. fixed: levels that the station's settings give.

    Every file is read once more where they are deep. Raises DataError for a bad image, for 8 bits among deeper ones,
    and where levels are fixed and images have 8 bits.
    """
    deep = [path for path in paths if stored_bits(path) >= DEEP_BITS]
    if not deep:
        if fixed is not None:
            raise DataError(f"{paths[0]}: has 8 bits; the station's `levels` are for images of more: remove them")
        return None
    if len(deep) < len(paths):
        shallow = next(path for path in paths if path not in set(deep))
        raise DataError(
            f"{shallow}: has 8 bits, {deep[0].name} and {len(deep) - 1} more have up to 16; save all as the camera "
            "will give them"
        )
    distinct: list[int] = []
    levels = Levels.of(_frames(paths, distinct, progress))
    return GreyLevels(fixed or levels, int(np.median(distinct)))


def _frames(paths: Sequence[Path], distinct: list[int], progress: Progress) -> Iterator[NDArray[np.uint16]]:
    """Each deep frame; how many different grey levels it has is added to `distinct`."""
    for done, path in enumerate(paths, start=1):
        frame = load_frame(path).astype(np.uint16, copy=False)
        distinct.append(int(np.count_nonzero(np.bincount(frame.reshape(-1)))))
        progress("read grey levels", done, len(paths))
        yield frame
