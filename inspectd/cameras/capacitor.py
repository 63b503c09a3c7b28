"""Pictures of good chip capacitors as an inspection machine sees them: what the simulated camera shows.

A part lives in part coordinates (u along the long axis, v across, pixels of the 110x50 part, origin in its centre)
and is drawn at its true sub-pixel pose. Same seed and index, same part; no part depends on another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.repeatable import distance
from inspectd.messages import Image, Pose

FloatMap = NDArray[np.float32]

FRAME_HEIGHT_PX = 200
FRAME_WIDTH_PX = 240
PART_HEIGHT_PX = 50
PART_WIDTH_PX = 110
FRAME_PX_PER_PART_PX = 1.2
BODY_INSET_PX = 0.6
MARGIN_PX = 8
KNEE = np.float32(240.0)
TINT = np.array([1.0, 0.985, 0.95], np.float32)


@dataclass(frozen=True, slots=True)
class Look:
    """What differs from one good part to the next: grey levels of 0..255, lengths in part pixels unless named."""

    x_px: float
    y_px: float
    angle_deg: float
    scale_u: float
    scale_v: float
    gain: float
    light_slope: tuple[float, float]
    focus_sigma_px: float
    background: float
    body: float
    electrode: float
    electrode_width: tuple[float, float]
    bow: tuple[float, float]
    corner_radius: float

    @property
    def pose(self) -> Pose:
        """The true pose, as `locate` should find it."""
        scale = math.sqrt(self.scale_u * self.scale_v)
        return Pose(x_px=self.x_px, y_px=self.y_px, angle_deg=self.angle_deg, scale=scale)


@dataclass(frozen=True, slots=True)
class Scene:
    """A good part drawn, not yet rounded to 8 bits. Maps but `grey` cover the window `rows` x `columns` of the frame.

    grey: (H, W) float32 of 0..255, the whole frame. u, v: part coordinates. cover: share of the pixel that is part.
    inside: distance to the outline in part pixels, positive inside. beyond: distance past the nearer electrode's inner
    edge, positive on the electrode. End -1 is the left electrode, +1 the right one.
    """

    look: Look
    rows: slice
    columns: slice
    grey: FloatMap
    u: FloatMap
    v: FloatMap
    cover: FloatMap
    inside: FloatMap
    beyond: FloatMap


class _Place(NamedTuple):
    """Where each pixel of the window lies on the part, as in `Scene`."""

    u: FloatMap
    v: FloatMap
    inside: FloatMap
    beyond: FloatMap


def draw_good(seeds: np.random.SeedSequence) -> Scene:
    """Draw one good part from its own seeds."""
    rng = np.random.Generator(np.random.SFC64(seeds))
    look = _choose_look(rng)
    rows, columns = _window(look)
    u, v = _part_coordinates(look, rows, columns)
    beyond = _beyond_inner_edge(look, u, v, rng)
    on_electrode = np.clip(beyond / 1.1 + 0.5, 0, 1)
    wobble = 0.15 * _mottle(rng, u.shape, 11)
    inset = BODY_INSET_PX * (1 - on_electrode)
    inside = _inside_rounded_box(u, v, look.corner_radius) + wobble - inset
    cover = np.clip(inside * FRAME_PX_PER_PART_PX + 0.5, 0, 1)

    grey = _background(rng, look)
    place = _Place(u, v, inside, beyond)
    body, electrode = _body(rng, look, place), _electrode(rng, look, place)
    part = body + (electrode - body) * on_electrode
    grey[rows, columns] += (part - grey[rows, columns]) * cover
    _add_dust(rng, grey, rows, columns)
    grey *= _light(look)
    cv2.GaussianBlur(grey, (0, 0), look.focus_sigma_px, dst=grey)
    grey += 0.02 * cv2.resize(
        cv2.GaussianBlur(cv2.resize(grey, (60, 50)), (0, 0), 2.5), (FRAME_WIDTH_PX, FRAME_HEIGHT_PX)
    )
    grey += rng.standard_normal(grey.shape, np.float32) * np.sqrt(0.7 + 0.012 * grey)
    np.minimum(grey, KNEE + 0.5 * (grey - KNEE), out=grey)
    return Scene(look, rows, columns, grey, u, v, cover, inside, beyond)


def to_image(grey: FloatMap) -> Image:
    """Round (H, W) float32 grey levels to an (H, W, 3) uint8 RGB image with the line's slight warm tint."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(grey, 0)[..., None] * TINT), np.uint8)


def _choose_look(rng: np.random.Generator) -> Look:
    size = FRAME_PX_PER_PART_PX * (1 + 0.015 * rng.standard_normal())
    return Look(
        x_px=(FRAME_WIDTH_PX - 1) / 2 + rng.uniform(-12, 12),
        y_px=(FRAME_HEIGHT_PX - 1) / 2 + rng.uniform(-12, 12),
        angle_deg=float(np.clip(3.0 * rng.standard_normal(), -9, 9)),
        scale_u=size * (1 + 0.006 * rng.standard_normal()),
        scale_v=size * (1 + 0.006 * rng.standard_normal()),
        gain=float(np.clip(1 + 0.02 * rng.standard_normal(), 0.94, 1.06)),
        light_slope=(rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)),
        focus_sigma_px=rng.uniform(0.6, 1.05),
        background=rng.uniform(13, 19),
        body=rng.uniform(108, 118),
        electrode=rng.uniform(226, 235),
        electrode_width=(25 + 0.5 * rng.standard_normal(), 25 + 0.5 * rng.standard_normal()),
        bow=(rng.uniform(1.2, 2.6), rng.uniform(1.2, 2.6)),
        corner_radius=rng.uniform(4.0, 5.0),
    )


def _window(look: Look) -> tuple[slice, slice]:
    """The part's bounding box in the frame, with a margin."""
    turn = math.radians(look.angle_deg)
    half_u, half_v = look.scale_u * PART_WIDTH_PX / 2, look.scale_v * PART_HEIGHT_PX / 2
    reach_x = abs(half_u * math.cos(turn)) + abs(half_v * math.sin(turn)) + MARGIN_PX
    reach_y = abs(half_u * math.sin(turn)) + abs(half_v * math.cos(turn)) + MARGIN_PX
    return (
        slice(max(0, int(look.y_px - reach_y)), min(FRAME_HEIGHT_PX, int(look.y_px + reach_y) + 2)),
        slice(max(0, int(look.x_px - reach_x)), min(FRAME_WIDTH_PX, int(look.x_px + reach_x) + 2)),
    )


def _part_coordinates(look: Look, rows: slice, columns: slice) -> tuple[FloatMap, FloatMap]:
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(look.x_px)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(look.y_px)
    cosine, sine = (
        np.float32(math.cos(math.radians(look.angle_deg))),
        np.float32(math.sin(math.radians(look.angle_deg))),
    )
    u = (cosine * x + sine * y) / np.float32(look.scale_u)
    v = (cosine * y - sine * x) / np.float32(look.scale_v)
    return np.asarray(u, np.float32), np.asarray(v, np.float32)


def _inside_rounded_box(u: FloatMap, v: FloatMap, radius: float) -> FloatMap:
    """Distance to the outline of the part with rounded corners, positive inside."""
    past_u = np.abs(u) - np.float32(PART_WIDTH_PX / 2 - radius)
    past_v = np.abs(v) - np.float32(PART_HEIGHT_PX / 2 - radius)
    outside = distance(np.maximum(past_u, 0), np.maximum(past_v, 0))
    return np.float32(radius) - outside - np.minimum(np.maximum(past_u, past_v), 0)


def _beyond_inner_edge(look: Look, u: FloatMap, v: FloatMap, rng: np.random.Generator) -> FloatMap:
    """Distance past the nearer electrode's inner edge: a shallow arc with irregular steps, drawn anew for each end."""
    at = np.arange(-PART_HEIGHT_PX / 2 - 12, PART_HEIGHT_PX / 2 + 13)
    lines = []
    for width, bow in zip(look.electrode_width, look.bow, strict=True):
        coarse = np.interp(at, at[::6], rng.standard_normal(at[::6].size))
        fine = np.interp(at, at[::2], rng.standard_normal(at[::2].size))
        arc = bow * ((at / (PART_HEIGHT_PX / 2)) ** 2 - 0.4)
        lines.append((PART_WIDTH_PX / 2 - width - arc + 0.5 * coarse + 0.25 * fine).astype(np.float32))
    position = v - np.float32(at[0])
    row = np.zeros_like(position)
    left, right = (cv2.remap(line[None, :], position, row, cv2.INTER_LINEAR) for line in lines)
    return np.where(u < 0, -u - left, u - right)


def _mottle(rng: np.random.Generator, shape: tuple[int, ...], cell_px: int) -> FloatMap:
    """Smooth random pattern of about unit deviation with cells of `cell_px`."""
    height, width = shape
    coarse = rng.standard_normal((height // cell_px + 3, width // cell_px + 3), np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatMap:
    """Fine Gaussian grain, finer than a pixel before the lens: no grain of a good surface stands out like a defect."""
    return np.asarray(np.float32(1.85) * rng.standard_normal(shape, np.float32), np.float32)


def _background(rng: np.random.Generator, look: Look) -> FloatMap:
    shape = (FRAME_HEIGHT_PX, FRAME_WIDTH_PX)
    return np.float32(look.background) + 1.6 * _mottle(rng, shape, 55) + 0.6 * _mottle(rng, shape, 7)


def _body(rng: np.random.Generator, look: Look, place: _Place) -> FloatMap:
    slope_u, slope_v = rng.uniform(-0.05, 0.05, 2).astype(np.float32)
    half_u, half_v = np.float32(PART_WIDTH_PX / 2), np.float32(PART_HEIGHT_PX / 2)
    across = place.v / half_v
    shading = 1 + slope_u * (place.u / half_u) + slope_v * across - 0.07 * across * across
    rim = 0.10 * np.exp(-np.square((place.inside - 2.2) / 1.1)) - 0.22 * np.exp(-np.maximum(place.inside, 0) / 0.9)
    shadow = 0.10 * np.exp(np.minimum(place.beyond, 0) / 1.6)
    grain = 5.2 * _speckle(rng, place.u.shape) + 2.0 * _mottle(rng, place.u.shape, 9)
    return np.asarray(np.float32(look.body) * (shading + rim - shadow) + grain, np.float32)


def _electrode(rng: np.random.Generator, look: Look, place: _Place) -> FloatMap:
    depth = np.maximum(place.inside, 0)
    roll_off = 0.38 * np.exp(-depth / 1.5) + 0.05 * np.exp(-depth / 7)
    thin = 0.14 * np.exp(-np.maximum(place.beyond, 0) / 1.8)
    grain = 8.5 * _speckle(rng, depth.shape) + 4.5 * _mottle(rng, depth.shape, 6)
    return np.asarray(np.float32(look.electrode) * (1.02 - roll_off - thin) + grain, np.float32)


def _light(look: Look) -> FloatMap:
    x = np.linspace(-1, 1, FRAME_WIDTH_PX, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, FRAME_HEIGHT_PX, dtype=np.float32)[:, None]
    slope_x, slope_y = look.light_slope
    return np.asarray(look.gain * (1 + slope_x * x + slope_y * y), np.float32)


def _add_dust(rng: np.random.Generator, grey: FloatMap, rows: slice, columns: slice) -> None:
    """Specks on the background, and fewer and fainter ones on the part: dust is no defect."""
    for _ in range(rng.poisson(5)):
        x, y = int(rng.integers(2, FRAME_WIDTH_PX - 2)), int(rng.integers(2, FRAME_HEIGHT_PX - 2))
        on_window = rows.start <= y < rows.stop and columns.start <= x < columns.stop
        level = rng.uniform(-9, 9) if on_window else rng.uniform(6, 32)
        grey[y, x] += level
        grey[y + int(rng.integers(-1, 2)), x + int(rng.integers(-1, 2))] += 0.7 * level
