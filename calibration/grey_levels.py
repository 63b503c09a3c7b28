"""Good parts of more than 8 bits: which grey levels become black and white, and how many a part really has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.errors import DataError
from calibration.images import load_frame, stored_bits
from engines.pictures import Levels, to_8_bits

DEEP_BITS: Final = 9
FEW_LEVELS: Final = 64
"""Different grey levels of a part below which little can be learnt from it."""
FEW_KEPT: Final = 32
"""Grey levels of the 8 bits below which the same is said of what `levels` leave of a part."""
SEEN_AGAIN: Final = 64
"""Parts of the set, evenly chosen, of which it is counted what the levels leave."""
LEAST_SHARE: Final = 1 / 2048
"""Of a part's pixels, that a grey level must hold to count as one of it: reflections may touch all of them."""
MOST_POOR: Final = 0.1
"""Share of these parts that may have few levels left."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class GreyLevels:
    """levels: for the bundle. distinct: different grey levels of a usual part (the median of all).

    kept: of each of up to SEEN_AGAIN parts, how many of the 256 grey levels it has by `levels`.
    """

    levels: Levels
    distinct: int
    kept: tuple[int, ...] = ()

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
        """One line where a part has too few grey levels, or `levels` leave too few of them, else empty."""
        if self.distinct < FEW_LEVELS:
            return (
                f"a good part has only {self.distinct} different grey levels: little can be learnt from them; raise "
                "exposure or gain, or save the camera's own bits"
            )
        poor = [kept for kept in self.kept if kept < FEW_KEPT]
        if len(poor) <= MOST_POOR * len(self.kept):
            return ""
        return (
            f"of {len(self.kept)} good parts that were looked at again, {len(poor)} keep fewer than {FEW_KEPT} of 256 "
            f"grey levels (as few as {min(poor)}, of {self.distinct} that a part has), because black is "
            f"{self.levels.black} and white {self.levels.white}: is something bright or black in the picture that is "
            "no part, or do some images come from another camera? Leave it out, or set `levels` by hand"
        )


def grey_levels(paths: Sequence[Path], fixed: Levels | None, progress: Progress) -> GreyLevels | None:
    """Of the good parts in these files; None where all have 8 bits. fixed: levels that the station's settings give.

    Every file is read once more where they are deep, some of them twice. Raises DataError for a bad image, for 8 bits
    among deeper ones, and where levels are fixed and images have 8 bits.
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
    own = Levels.of(_frames(paths, distinct, progress))
    levels = fixed or own
    again = [paths[place] for place in np.linspace(0, len(paths) - 1, min(len(paths), SEEN_AGAIN)).round().astype(int)]
    kept = tuple(_kept(load_frame(path), levels) for path in again)
    return GreyLevels(levels, int(np.median(distinct)), kept)


def _kept(frame: NDArray[Any], levels: Levels) -> int:
    """How many of the 256 grey levels a deep frame (H, W, 3) has, but for those of LEAST_SHARE of its pixels."""
    counts = np.bincount(to_8_bits(frame, levels).reshape(-1), minlength=256)
    return int(np.count_nonzero(counts > LEAST_SHARE * frame.size))


def _frames(paths: Sequence[Path], distinct: list[int], progress: Progress) -> Iterator[NDArray[np.uint16]]:
    """Each deep frame; how many different grey levels it has is added to `distinct`."""
    for done, path in enumerate(paths, start=1):
        frame = load_frame(path).astype(np.uint16, copy=False)
        distinct.append(int(np.count_nonzero(np.bincount(frame.reshape(-1)))))
        progress("read grey levels", done, len(paths))
        yield frame
