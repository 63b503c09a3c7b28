"""Drawn frames of turned parts whose pose is known: for measuring and showing what `locate` does, and for its tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
SIDE = 240
FINER = 4
BRACKET = ((-60, -34), (10, -34), (10, -12), (52, -12), (66, 6), (52, 24), (-10, 24), (-10, 44), (-60, 44))
"""An outline in part pixels that no turn brings back, but a full one."""
HOLES = ((-40, -14, 9), (-36, 24, 7), (38, 6, 8))
SLOT = ((-24, -24), (0, -24), (0, -18), (-24, -18))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where a drawn part lies: the place of its origin in the frame, its turn clockwise on the screen, its size."""

    x: float
    y: float
    angle_deg: float = 0.0
    scale: float = 1.0

    def to_frame(self, points: Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) frame pixels of points in part pixels."""
        turn = math.radians(self.angle_deg)
        cos, sin = self.scale * math.cos(turn), self.scale * math.sin(turn)
        turned = np.asarray(points, np.float64) @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned + np.array([self.x, self.y]), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colours and light. texture: deviation of the ground's blotches; slope: of the light, from side to side."""

    part: tuple[int, int, int] = (150, 165, 140)
    ground: tuple[int, int, int] = (40, 44, 52)
    hole: tuple[int, int, int] = (40, 44, 52)
    slot: tuple[int, int, int] = (70, 80, 160)
    light: float = 1.0
    texture: float = 2.5
    noise: float = 2.0
    slope: float = 0.0


BRIGHT_GROUND = Look(part=(60, 110, 70), ground=(225, 225, 220), hole=(225, 225, 220), slot=(180, 40, 40))


def empty(look: Look, seed: int, side: int = SIDE) -> NDArray[np.float32]:
    """(side, side, 3) float32: the ground alone, unlit and without noise."""
    blotches = np.random.default_rng([seed, 1]).normal(0, 1, (side, side)).astype(np.float32)
    blotches = np.asarray(cv2.GaussianBlur(blotches, (0, 0), 3), np.float32)
    blotches *= look.texture / max(float(blotches.std()), 1e-6)
    ground = np.asarray(look.ground, np.float32) + blotches[..., None]
    return ground + np.linspace(-look.slope, look.slope, side, dtype=np.float32)[None, :, None]


def finished(canvas: NDArray[np.float32], look: Look, seed: int) -> Image:
    """Under the look's light, with a camera's noise."""
    noise = np.random.default_rng([seed, 2]).normal(0, look.noise, canvas.shape)
    return np.clip(canvas * look.light + noise + 0.5, 0, 255).astype(np.uint8)


def paint(canvas: NDArray[np.float32], points: NDArray[np.float64], colour: Sequence[float]) -> None:
    """Fill a polygon given in frame pixels, its edge averaged over the pixels that it passes through."""
    side = canvas.shape[0]
    mask = np.zeros((side * FINER, side * FINER), np.uint8)
    fine = ((points + 0.5) * FINER - 0.5) * 256
    cv2.fillPoly(mask, [fine.round().astype(np.int32)], 255, shift=8)
    cover = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    canvas += cover * (np.asarray(colour, np.float32) - canvas)


def circle(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The corners of a polygon that passes for a circle."""
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def add_bracket(canvas: NDArray[np.float32], pose: Pose, look: Look) -> None:
    """Draw the bracket into a canvas."""
    paint(canvas, pose.to_frame(BRACKET), look.part)
    for x, y, radius in HOLES:
        paint(canvas, pose.to_frame(circle(x, y, radius)), look.hole)
    paint(canvas, pose.to_frame(SLOT), look.slot)


def bracket(pose: Pose, look: Look | None = None, seed: int = 0) -> Image:
    """(SIDE, SIDE, 3) uint8 RGB: one bracket on its ground."""
    look = look or Look()
    canvas = empty(look, seed)
    add_bracket(canvas, pose, look)
    return finished(canvas, look, seed)


def random_pose(seed: int, *, turn: float = 180.0, shift: float = 18.0, growth: float = 0.0) -> Pose:
    """A pose near the middle of the frame, drawn by chance."""
    rng = np.random.default_rng([seed, 3])
    x, y = (SIDE - 1) / 2 + rng.uniform(-shift, shift, 2)
    return Pose(
        x=float(x),
        y=float(y),
        angle_deg=float(rng.uniform(-turn, turn)),
        scale=float(rng.uniform(1 - growth, 1 + growth)),
    )


def winged(wings: int, pose: Pose, look: Look | None = None, seed: int = 0, *, mark: float = 0.0) -> Image:
    """A nut with so many slanted wings, a washer without any; mark: the radius of a spot beside the hole."""
    look = look or Look()
    canvas = empty(look, seed)
    angles = np.linspace(0, 2 * math.pi, 240, endpoint=False)
    radii = 52 + 26 * ((wings * angles / (2 * math.pi)) % 1.0)
    paint(canvas, pose.to_frame(np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])), look.part)
    paint(canvas, pose.to_frame(circle(0, 0, 16)), look.hole)
    if mark:
        paint(canvas, pose.to_frame(circle(34, 0, mark)), look.slot)
    return finished(canvas, look, seed)


def scratched(pose: Pose, look: Look | None = None, seed: int = 0) -> Image:
    """A bracket with a bright scratch."""
    look = look or Look()
    canvas = empty(look, seed)
    add_bracket(canvas, pose, look)
    paint(canvas, pose.to_frame([(-52, 30), (2, 20), (3, 23), (-51, 34)]), (235, 235, 240))
    return finished(canvas, look, seed)


def broken(pose: Pose, look: Look | None = None, seed: int = 0, *, from_px: float = 14.0) -> Image:
    """A bracket of which all beyond `from_px` is missing: to the right of it, or to the left where it is below 0."""
    look = look or Look()
    canvas = empty(look, seed)
    ground = canvas.copy()
    add_bracket(canvas, pose, look)
    far = math.copysign(90.0, from_px)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cover = pose.to_frame([(from_px, -60), (far, -60), (far, 60), (from_px, 60)])
    cv2.fillPoly(mask, [cover.round().astype(np.int32)], 1)
    canvas[mask > 0] = ground[mask > 0]
    return finished(canvas, look, seed)


def two(first: Pose, second: Pose, look: Look | None = None, seed: int = 0) -> Image:
    """Two brackets in one frame."""
    look = look or Look()
    canvas = empty(look, seed)
    add_bracket(canvas, first, look)
    add_bracket(canvas, second, look)
    return finished(canvas, look, seed)


def shape(points: Sequence[Sequence[float]], look: Look | None = None, seed: int = 0) -> Image:
    """Anything else in the middle of the frame, in the bracket's colour."""
    look = look or Look()
    canvas = empty(look, seed)
    paint(canvas, Pose(x=(SIDE - 1) / 2, y=(SIDE - 1) / 2).to_frame(points), look.part)
    return finished(canvas, look, seed)
