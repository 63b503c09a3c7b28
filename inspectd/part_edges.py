"""For `locate`: from a roughly known rectangle to one fitted to its four edges with sub-pixel accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.messages import Image

MARGIN_PX = 10
ROUNDS = 3
SETTLED_PX = 2.0
_RIDGE = 1e-6 * np.eye(5)


@dataclass(frozen=True, slots=True)
class OrientedBox:
    """A rectangle in an image: centre and sides in pixels, `width` the long side along `angle_deg` in (-90, 90]."""

    x: float
    y: float
    width: float
    height: float
    angle_deg: float

    def in_full_frame(self, factor: int, offset: float) -> OrientedBox:
        """The same rectangle in the frame that was shrunk by `factor`."""
        return OrientedBox(
            self.x * factor + offset,
            self.y * factor + offset,
            self.width * factor,
            self.height * factor,
            self.angle_deg,
        )

    def part_to_frame(self, part_width_px: int, part_height_px: int, margin_px: int = 0) -> NDArray[np.float64]:
        """(2, 3) float64 matrix from pixels of a part_height x part_width image of this rectangle to the frame.

        margin_px: of the image around the rectangle, on every side.
        """
        turn = math.radians(self.angle_deg)
        cosine, sine = math.cos(turn), math.sin(turn)
        along, across = self.width / part_width_px, self.height / part_height_px
        u, v = (part_width_px - 1) / 2 + margin_px, (part_height_px - 1) / 2 + margin_px
        xu, xv, yu, yv = along * cosine, -across * sine, along * sine, across * cosine
        return np.array(((xu, xv, self.x - (xu * u + xv * v)), (yu, yv, self.y - (yu * u + yv * v))))

    def corners(self) -> tuple[tuple[float, float], ...]:
        """The four corners (x, y)."""
        turn = math.radians(self.angle_deg)
        along_x, along_y = math.cos(turn) * self.width / 2, math.sin(turn) * self.width / 2
        across_x, across_y = -math.sin(turn) * self.height / 2, math.cos(turn) * self.height / 2
        return tuple(
            (self.x + s * along_x + t * across_x, self.y + s * along_y + t * across_y)
            for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        )


class EdgeFitter:
    """Fits a part of canonical size to its edges: where brightness is halfway between outside and just inside.

    Half of each profile's own step makes bright electrodes and a dark body agree on the same edge; a robust fit of one
    rectangle to all four sides leaves out chips, missing corners and dust.
    """

    def __init__(self, part_width_px: int, part_height_px: int) -> None:
        self._width, self._height = part_width_px, part_height_px
        skip_u, skip_v = max(3, part_width_px // 12), max(3, part_height_px // 6)
        columns = np.arange(skip_u, part_width_px - skip_u, 2)
        rows = np.arange(skip_v, part_height_px - skip_v)
        u = columns - (part_width_px - 1) / 2
        v = rows - (part_height_px - 1) / 2
        one_u, one_v, no_u, no_v = np.ones_like(u), np.ones_like(v), np.zeros_like(u), np.zeros_like(v)
        # Unknowns: shift in u, shift in v, turn, growth of the half width, growth of the half height.
        self._design = np.concatenate(
            [
                np.stack([no_u, one_u, u, no_u, -one_u], axis=1),
                np.stack([no_u, one_u, u, no_u, one_u], axis=1),
                np.stack([one_v, no_v, -v, -one_v, no_v], axis=1),
                np.stack([one_v, no_v, -v, one_v, no_v], axis=1),
            ]
        )
        self._design_transposed = np.ascontiguousarray(self._design.T)
        self._outward = np.repeat([-1.0, 1.0, -1.0, 1.0], [u.size, u.size, v.size, v.size])
        self._size = (part_width_px + 2 * MARGIN_PX, part_height_px + 2 * MARGIN_PX)
        self._profiles = _profile_pixels(self._size, rows + MARGIN_PX, columns + MARGIN_PX)

    def fit(self, image: Image, box: OrientedBox) -> OrientedBox | None:
        """Return the rectangle fitted in an (H, W, 3) uint8 frame, or None where too few edge points agree on one."""
        for _ in range(ROUNDS):
            depth = self._edge_depths(image, box)
            change = self._solve(depth * self._outward)
            if change is None:
                return None
            box = self._moved(box, change)
            if np.abs(change[[0, 1, 3, 4]]).max() < SETTLED_PX and abs(change[2]) * self._width / 2 < SETTLED_PX:
                break
        return box

    def _edge_depths(self, image: Image, box: OrientedBox) -> NDArray[np.float64]:
        """How far each edge point lies outside the assumed edge, in part pixels; NaN where there is none."""
        patch = cv2.warpAffine(
            image,
            box.part_to_frame(self._width, self._height, MARGIN_PX),
            self._size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        profiles = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).ravel()[self._profiles].astype(np.float32)
        return _half_way(profiles)

    def _solve(self, offsets: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Robust least squares (Tukey's biweight, from a start by medians)."""
        seen = ~np.isnan(offsets)
        points = np.count_nonzero(seen)
        if points < 0.6 * offsets.size:
            return None
        offsets = np.where(seen, offsets, 0)
        weights = seen.astype(np.float64)
        solution = np.zeros(5)
        for limit in (None, 6.0, 4.0, 3.0):
            if limit is not None:
                distance = np.abs(offsets - self._design @ solution)
                scale = max(0.25, 1.4826 * _median(distance if points == offsets.size else distance[seen]))
                weights = np.maximum(1 - np.square(distance * (1 / (limit * scale))), 0)
                weights *= weights * seen
            weighted = self._design_transposed * weights
            normal, right = weighted @ self._design + _RIDGE, (weighted @ offsets)[:, None]
            solution = np.asarray(cv2.solve(normal, right, flags=cv2.DECOMP_CHOLESKY)[1], np.float64).ravel()
        return solution if np.count_nonzero(weights) >= 0.5 * offsets.size else None

    def _moved(self, box: OrientedBox, change: NDArray[np.float64]) -> OrientedBox:
        along, across = box.width / self._width, box.height / self._height
        turn = math.radians(box.angle_deg)
        move_u, move_v, twist, grow_u, grow_v = change.tolist()
        shift_u, shift_v = along * move_u, across * move_v
        angle = box.angle_deg + math.degrees(twist)
        return OrientedBox(
            box.x + shift_u * math.cos(turn) - shift_v * math.sin(turn),
            box.y + shift_u * math.sin(turn) + shift_v * math.cos(turn),
            box.width + 2 * along * grow_u,
            box.height + 2 * across * grow_v,
            90 - (90 - angle) % 180,
        )


def _profile_pixels(size: tuple[int, int], rows: NDArray[np.int_], columns: NDArray[np.int_]) -> NDArray[np.int_]:
    """(2 * MARGIN_PX, edge points) flat indices into an image of this (width, height): each edge point's profile.

    They run from outside to inside, through the upper, the lower, the left and the right edge.
    """
    width, height = size
    pixels = np.arange(width * height).reshape(height, width)
    reach = 2 * MARGIN_PX
    sides = (pixels[:reach, columns], pixels[: -reach - 1 : -1, columns])
    ends = (pixels[rows, :reach].T, pixels[rows, : -reach - 1 : -1].T)
    return np.ascontiguousarray(np.concatenate([*sides, *ends], axis=1))


def _median(values: NDArray[np.float64]) -> float:
    """The upper median of a one-dimensional array; np.median takes five times as long on so few."""
    middle = values.size // 2
    return float(np.partition(values, middle)[middle])


def _half_way(profiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Where each column, read from outside in, first passes half its own step; in pixels outside the assumed edge."""
    outside = profiles[:4].min(axis=0)
    inside = profiles[MARGIN_PX + 3 : MARGIN_PX + 8].sum(axis=0) / 5
    half = (outside + inside) / 2
    first = (profiles > half).argmax(axis=0)
    points = np.arange(profiles.shape[1])
    high = profiles[first, points]
    low = profiles[np.maximum(first - 1, 0), points]
    position = first - (high - half) / np.maximum(high - low, 1e-3)
    unseen = (first == 0) | (inside - outside < 6)
    return np.where(unseen, np.nan, MARGIN_PX - 0.5 - position)
