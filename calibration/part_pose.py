"""How good parts lie: aligned to a template, what symmetry it has, by how much they turn, move and change scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.part_scene import LEAST_FIT_SHARE, Floats, Images, NoPartSeen
from engines.alignment import Aligner, Alignment, Misaligned, PartTemplate
from engines.alignment.template import GRID_PX

LEAST_LIKENESS = 0.5
SYMMETRIES = (8, 6, 5, 4, 3, 2)
ROUND_TURNS_DEG = (37.0, 75.0, 101.0, 163.0, 205.0)
CHANCE_MARGIN = 0.4
ONE_SIZE_SPREAD = 0.006
SCALE_SLACK = 0.01
ONE_POSE_DEG = 40.0
TURN_SLACK_DEG = 3.0


@dataclass(frozen=True, slots=True)
class Aligned:
    """Frames that could be aligned to a template, and how."""

    aligner: Aligner
    frames: list[Images]
    found: list[Alignment]

    @property
    def scores(self) -> NDArray[np.float64]:
        """(P,) how alike each is to the template."""
        return np.array([each.score for each in self.found])


def align(template: PartTemplate, frames: Sequence[Images]) -> Aligned:
    """Align all; raises NoPartSeen where few resemble the template."""
    aligner = Aligner(template)
    kept, found = [], []
    for frame in frames:
        try:
            found.append(aligner.align(frame))
        except Misaligned:
            continue
        kept.append(frame)
    if len(kept) < LEAST_FIT_SHARE * len(frames):
        raise NoPartSeen(f"{len(frames) - len(kept)} of {len(frames)} frames show no part like the others")
    aligned = Aligned(aligner, kept, found)
    if float(np.median(aligned.scores)) < LEAST_LIKENESS:
        raise NoPartSeen("the parts that stand out from the background do not resemble each other")
    return aligned


def settled(template: PartTemplate, frames: Sequence[Images]) -> PartTemplate:
    """Symmetry, turns and scales from how all parts lie; the template in canonical pose."""
    aligned = align(template, frames)
    symmetry = _symmetry(aligned)
    angles = np.array([each.angle_deg for each in aligned.found])
    scales = np.array([each.scale for each in aligned.found])
    middle, spread = _circular(angles, max(1, symmetry))
    step = 180.0 / max(1, symmetry)
    if symmetry == 0:
        zero, turn = 0.0, 0.0
    elif spread <= ONE_POSE_DEG * min(1.0, step / 90.0):
        zero, turn = middle, min(step, 1.5 * spread + TURN_SLACK_DEG)
    else:
        zero, turn = _long_side(template.mask), step
    scale = float(np.median(scales))
    low, high = (np.quantile(scales, (0.05, 0.95)) / scale).tolist()
    one_size = high - low <= ONE_SIZE_SPREAD
    places = np.array([(each.x, each.y) for each in aligned.found])
    spread_x, spread_y = (1.4826 * np.median(np.abs(places - np.median(places, axis=0)), axis=0)).tolist()
    return replace(
        template,
        image=turned(template.image, zero),
        mask=turned(template.mask.astype(np.float32), zero) > 0.5,
        frame_px=template.frame_px * scale,
        symmetry=symmetry,
        turn_deg=turn,
        least_scale=1.0 if one_size else min(1.0, float(scales.min()) / scale - SCALE_SLACK),
        largest_scale=1.0 if one_size else max(1.0, float(scales.max()) / scale + SCALE_SLACK),
        shift_px=(spread_x, spread_y),
    )


def _symmetry(aligned: Aligned) -> int:
    """Of how many turns that look the same a full turn consists; 0: of any, the part is round.

    A part takes the best of the turns that look the same, so another one is never better, but it is as good as often as
    chance has it. Where a mark tells them apart, it is worse by about as much on every part.
    """
    base = aligned.scores
    loss = float(np.median(1 - base))
    plain = [_margins(aligned, turn, fit=False) for turn in ROUND_TURNS_DEG]
    if all(float(np.median(margins)) <= 0.5 * loss + 0.01 for margins in plain):
        return 0
    for count in SYMMETRIES:
        margins = _margins(aligned, 360.0 / count, fit=True)
        usual = float(np.median(margins))
        by_chance = float(np.quantile(margins, 0.1)) <= CHANCE_MARGIN * max(usual, 1e-9)
        if usual <= 0.5 * loss + 0.01 and (by_chance or usual <= 0.1 * loss):
            return count
    return 1


def _margins(aligned: Aligned, turn_deg: float, *, fit: bool) -> NDArray[np.float64]:
    """(P,) by how much each part is less alike when it is turned by so much more."""
    likeness = [
        aligned.aligner.score_turned(frame, found, turn_deg, fit=fit)
        for frame, found in zip(aligned.frames, aligned.found, strict=True)
    ]
    return np.asarray(aligned.scores - np.array(likeness), np.float64)


def _circular(angles_deg: NDArray[np.float64], symmetry: int) -> tuple[float, float]:
    """The mean angle, and the largest deviation from it that 98 % of the angles stay within; modulo the symmetry."""
    waves = np.exp(1j * np.radians(angles_deg * symmetry))
    middle = float(np.degrees(np.angle(waves.mean())))
    off = np.abs((angles_deg * symmetry - middle + 180.0) % 360.0 - 180.0) / symmetry
    return middle / symmetry, float(np.quantile(off, 0.98))


def _long_side(mask: NDArray[np.bool_]) -> float:
    """The turn that lays the long side of the smallest rectangle around the part level, in (-90, 90]."""
    points = np.argwhere(mask)[:, ::-1].astype(np.float32)
    corners = cv2.boxPoints(cv2.minAreaRect(points)).astype(np.float64)
    sides = [corners[1] - corners[0], corners[2] - corners[1]]
    x, y = max(sides, key=lambda side: (round(float(np.hypot(*side)), 3), side[0])).tolist()
    return -math.degrees(math.atan2(y, x) if x > 0 or (x == 0 and y > 0) else math.atan2(-y, -x))


def turned(image: Floats, turn_deg: float) -> Floats:
    """A template grid turned about its middle: what lay at angle a lies at a + turn_deg, clockwise on the screen."""
    middle = (GRID_PX - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), -turn_deg, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (GRID_PX, GRID_PX), flags=cv2.INTER_LINEAR), np.float32)
