"""What stands out from a station's background, of any colour: brighter, darker or of another colour than it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]
RING_PX = 2
EDGE_PIECES = 32


class Ground:
    """The background of one station's frames, learnt; each frame's border tells how its light differs.

    ground: (h, w, 3) float32 RGB of the whole frame.
    """

    def __init__(self, ground: Floats) -> None:
        self._ground = ground
        self._even = float(np.ptp(ground, axis=(0, 1)).max()) < 1.0
        self._colour = np.asarray(ground.mean(axis=(0, 1)), np.float32)
        self._resized: dict[tuple[int, int], Floats] = {}

    def at(self, height: int, width: int) -> Floats:
        """The background of a whole frame shrunk to this size: (height, width, 3), or (3,) where it is even."""
        if self._even:
            return self._colour
        known = self._resized.get((height, width))
        if known is None:
            if len(self._resized) > 4:
                self._resized.clear()
            known = np.asarray(cv2.resize(self._ground, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
            self._resized[height, width] = known
        return known

    def light(self, small: Image) -> Floats:
        """(3,) grey levels by which a whole (h, w, 3) uint8 frame's border is brighter than the learnt background."""
        height, width = small.shape[:2]
        ground = self.at(height, width)
        ring = ring_of(small.astype(np.float32) - ground) if ground.ndim == 3 else ring_of(small) - ground
        middle = ring.shape[0] // 2
        return np.asarray(np.partition(ring, middle, axis=0)[middle], np.float32)


@dataclass(frozen=True, slots=True)
class Blobs:
    """The connected areas of a foreground, the largest first: (N,) areas in pixels, (N, 2) centres (x, y) and (N,)
    whether they touch the frame's edge."""

    areas: NDArray[np.float64]
    centres: NDArray[np.float64]
    touching: NDArray[np.bool_]


def ring_of(image: NDArray[np.generic]) -> Floats:
    """(N, channels) float32: the pixels along the border of an (h, w, channels) image."""
    return np.concatenate(
        [
            part.reshape(-1, image.shape[2])
            for part in (
                image[:RING_PX],
                image[-RING_PX:],
                image[RING_PX:-RING_PX, :RING_PX],
                image[RING_PX:-RING_PX, -RING_PX:],
            )
        ]
    ).astype(np.float32)


def distance(difference: Floats) -> Floats:
    """(h, w) largest absolute difference of any channel of (h, w, 3)."""
    apart = np.abs(difference)
    return np.asarray(np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2]), np.float32)


def foreground(difference: Floats, level: float) -> Mask:
    """(h, w) uint8, 1 where an (h, w, 3) difference from the background exceeds the level in any channel."""
    return np.asarray(distance(difference) > level, np.uint8)


def edge_is_touched(frame: Image, ground: Floats, level: float) -> bool:
    """Whether anything stands out by more than the level along the very edge of an (H, W, 3) uint8 frame.

    ground: the background as `Ground.at` gives it for a small whole frame, with this frame's light.
    """
    height, width = ground.shape[:2] if ground.ndim == 3 else (EDGE_PIECES, EDGE_PIECES)
    across, along = (width, 1), (1, height)
    sides = (
        (frame[:RING_PX], across, np.s_[:1]),
        (frame[-RING_PX:], across, np.s_[-1:]),
        (frame[:, :RING_PX], along, np.s_[:, :1]),
        (frame[:, -RING_PX:], along, np.s_[:, -1:]),
    )
    for strip, size, place in sides:
        means = cv2.resize(strip.astype(np.float32), size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], 3)
        if (distance(means - (ground if ground.ndim == 1 else ground[place])) > level).any():
            return True
    return False


def blobs_of(mask: Mask) -> Blobs:
    """The 8-connected areas of a foreground mask."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    order = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") if count > 1 else np.zeros(0, np.intp)
    left, top = stats[order, cv2.CC_STAT_LEFT], stats[order, cv2.CC_STAT_TOP]
    right, bottom = left + stats[order, cv2.CC_STAT_WIDTH], top + stats[order, cv2.CC_STAT_HEIGHT]
    touching = (left == 0) | (top == 0) | (right == mask.shape[1]) | (bottom == mask.shape[0])
    return Blobs(stats[order, cv2.CC_STAT_AREA].astype(np.float64), np.asarray(centres[order], np.float64), touching)
