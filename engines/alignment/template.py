"""What was learnt of a part's look and of how it lies in the frame: `locate.npz` of a bundle."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import BundleError
from engines.writing import writing

TEMPLATE_NAME = "locate.npz"
GRID_PX = 96
"""Side of the template: the part at any angle, and a margin of background."""
MOST_GROUND_PX = 256
ANY_TURN_DEG = 180.0
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTemplate:
    """A part as good parts show it, in canonical pose, and what was seen of how they lie.

    image: (GRID_PX, GRID_PX, 3) float32 RGB less the background, in grey levels. mask: (GRID_PX, GRID_PX) bool, where
    the part is; its centroid is the middle of the grid. ground: (h, w, 3) float32 RGB, the background of the whole
    frame, smooth. level: grey levels from the background, in any channel, from which on a pixel is foreground.
    frame_px: frame pixels in one template pixel, at scale 1.

    symmetry: of how many equal turns that look the same a full turn consists; 1: none, 0: the part is round.
    turn_deg: the largest turn to either side that is sought, 180 / symmetry where parts lie turned by any angle.
    least_scale, largest_scale: of good parts; both 1 where they are all of one size. shift_px: (x, y), the standard
    deviation of their places in the frame, in frame pixels.

    residual: grey levels; deviations from the template count as this much at most in a fit. usual_score: the median of
    good parts' scores. sure_score: from which on no better pose is sought. least_score: below which something is
    another part. outside: the share of the part that may lie beyond the frame's edge.
    """

    image: Floats
    mask: NDArray[np.bool_]
    ground: Floats
    level: float
    frame_px: float
    symmetry: int
    turn_deg: float
    least_scale: float
    largest_scale: float
    shift_px: tuple[float, float]
    residual: float
    usual_score: float
    sure_score: float
    least_score: float
    outside: float

    @property
    def diameter_px(self) -> float:
        """Of the circle around the middle that holds the part, in frame pixels at scale 1."""
        return 2 * self.radius * self.frame_px

    @property
    def radius(self) -> float:
        """Of that circle, in template pixels."""
        rows, columns = np.nonzero(self.mask)
        middle = (GRID_PX - 1) / 2
        return float(np.hypot(rows - middle, columns - middle).max()) + 0.5

    @property
    def area_px(self) -> float:
        """Of the part, in square frame pixels at scale 1."""
        return float(np.count_nonzero(self.mask)) * self.frame_px**2


def save_template(template: PartTemplate, path: Path) -> None:
    """Write it as an uncompressed .npz without pickles; the same template gives the same bytes. Raises OSError."""
    arrays = {field.name: np.asarray(getattr(template, field.name)) for field in fields(template)}
    with path.open("wb") as file, writing(path):
        np.savez(file, allow_pickle=False, **arrays)


def load_template(path: Path) -> PartTemplate:
    """Read and check what `save_template` wrote. Raises BundleError for anything else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {field.name: np.asarray(stored[field.name]) for field in fields(PartTemplate)}
        template = PartTemplate(
            image=_floats(arrays.pop("image"), (GRID_PX, GRID_PX, 3)),
            mask=_mask(arrays.pop("mask")),
            ground=_floats(arrays.pop("ground"), (None, None, 3)),
            symmetry=int(arrays.pop("symmetry")),
            shift_px=(float(arrays["shift_px"][0]), float(arrays.pop("shift_px")[1])),
            **{name: _number(value) for name, value in arrays.items()},
        )
        _check(template)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: is no part template ({error}); calibrate again with this version") from error
    return template


def _floats(array: NDArray[np.generic], shape: tuple[int | None, ...]) -> Floats:
    fits = len(array.shape) == len(shape) and all(
        side == wanted if wanted is not None else 2 <= side <= MOST_GROUND_PX
        for side, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.float32 or not fits:
        raise ValueError(f"an array of {array.dtype} {array.shape}")
    floats = np.asarray(array, np.float32)
    if not np.isfinite(floats).all():
        raise ValueError("not all numbers are finite")
    return floats


def _mask(array: NDArray[np.generic]) -> NDArray[np.bool_]:
    if array.dtype != np.bool_ or array.shape != (GRID_PX, GRID_PX):
        raise ValueError(f"a mask of {array.dtype} {array.shape}")
    return np.asarray(array, np.bool_)


def _number(value: NDArray[np.generic]) -> float:
    number = float(value.item())
    if not np.isfinite(number):
        raise ValueError("not all numbers are finite")
    return number


def _check(template: PartTemplate) -> None:
    """Raise ValueError for numbers that no learning gives."""
    share = float(template.mask.mean())
    fine = (
        template.frame_px > 0
        and template.level > 0
        and template.residual > 0
        and 0 < template.least_scale <= template.largest_scale
        and 0 <= template.symmetry <= GRID_PX
        and 0 <= template.turn_deg <= ANY_TURN_DEG
        and 0 < share < 1
    )
    if not fine:
        raise ValueError("numbers out of range")
