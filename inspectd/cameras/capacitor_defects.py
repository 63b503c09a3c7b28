"""The nine defect types of the simulated capacitor line: shape, place and contrast of one defect on a drawn part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.repeatable import distance
from inspectd.cameras.capacitor import BODY_INSET_PX, PART_HEIGHT_PX, PART_WIDTH_PX, FloatMap, Scene
from inspectd.cameras.capacitor_variation import variation

SMALLEST_PX = 3.0
LARGEST_PX = 15.0
MASK_LEVEL = 0.4
BITE_DEPTH = 0.15


class DefectType(StrEnum):
    """What can be wrong with a capacitor."""

    BODY_CRACK = "body_crack"
    BODY_CHIP = "body_chip"
    BODY_STAIN = "body_stain"
    SCRATCH = "scratch"
    DELAMINATION = "delamination"
    ELECTRODE_SPREAD = "electrode_spread"
    ELECTRODE_EDGE_CHIP = "electrode_edge_chip"
    ELECTRODE_CORNER_MISSING = "electrode_corner_missing"
    EXPOSED_BODY = "exposed_body"


class Severity(StrEnum):
    """How much a defect stands out: a contrast-to-noise ratio, see `CONTRAST_TO_NOISE`."""

    PLAIN = "plain"
    MODERATE = "moderate"
    FAINT = "faint"


CONTRAST_TO_NOISE: Mapping[Severity, float] = MappingProxyType(
    {Severity.PLAIN: 8.0, Severity.MODERATE: 4.0, Severity.FAINT: 2.0}
)
"""Mean difference over the defect's mask, divided by how much good parts differ over that same area (`variation`)."""


@dataclass(frozen=True, slots=True)
class DefectSpec:
    """One defect to draw; `size_px` is its longest extent in pixels of the 110x50 part, 3 to 15."""

    type: DefectType
    severity: Severity
    size_px: float

    def __post_init__(self) -> None:
        if not SMALLEST_PX <= self.size_px <= LARGEST_PX:
            raise ValueError(f"size_px must be {SMALLEST_PX:g} to {LARGEST_PX:g}, got {self.size_px:g}")


class _Draft(NamedTuple):
    """A defect before contrast: strength 0..1 in the scene's window, brighter or darker.

    extent: what the mask covers, where that is more than the strength itself (the whole swirl, not its arms alone).
    """

    strength: FloatMap
    brighter: bool
    extent: FloatMap | None = None


def add_defect(scene: Scene, spec: DefectSpec, seeds: np.random.SeedSequence) -> tuple[FloatMap, NDArray[np.uint8]]:
    """Return the frame's (H, W) float32 grey levels with the defect, and the defect's (H, W) uint8 mask, 0 or 255."""
    rng = np.random.Generator(np.random.SFC64(seeds))
    draft = _DRAW[spec.type](scene, spec.size_px, rng)
    strength = _in_focus(scene, draft.strength)
    where = (strength if draft.extent is None else _in_focus(scene, draft.extent)) > MASK_LEVEL
    window_mask = where.astype(np.uint8) * 255
    noise = variation(scene, where)
    contrast = CONTRAST_TO_NOISE[spec.severity] * noise / float(strength[where].mean())
    grey = scene.grey.copy()
    grey[scene.rows, scene.columns] += (contrast if draft.brighter else -contrast) * strength
    mask = np.zeros(grey.shape, np.uint8)
    mask[scene.rows, scene.columns] = window_mask
    return grey, mask


def _in_focus(scene: Scene, strength: FloatMap) -> FloatMap:
    """The strength as the lens shows it, on the part only, with a maximum of 1."""
    blurred = cv2.GaussianBlur(strength * scene.cover, (0, 0), scene.look.focus_sigma_px)
    return np.asarray(blurred / np.float32(blurred.max()), np.float32)


def _line(scene: Scene, points: NDArray[np.float64], width: float) -> FloatMap:
    """Strength of a polyline through (n, 2) points (u, v), `width` part pixels wide."""
    nearest = np.full(scene.u.shape, np.inf, np.float32)
    for start, end in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        along = (end[0] - start[0], end[1] - start[1])
        length2 = max(along[0] ** 2 + along[1] ** 2, 1e-6)
        du, dv = scene.u - np.float32(start[0]), scene.v - np.float32(start[1])
        share = np.clip((du * along[0] + dv * along[1]) / length2, 0, 1)
        np.minimum(nearest, distance(du - share * along[0], dv - share * along[1]), out=nearest)
    return np.asarray(np.clip(width / 2 - nearest + 0.5, 0, 1), np.float32)


def _blob(
    scene: Scene, centre: tuple[float, float], size: float, rng: np.random.Generator, *, rough: float, soft: float
) -> FloatMap:
    """Strength of an irregular patch whose longest extent is `size`; `soft` is the width of its rim in part pixels."""
    du, dv = scene.u - np.float32(centre[0]), scene.v - np.float32(centre[1])
    around = np.arctan2(dv, du)
    radius = _irregular_radius(rng, rough)
    radius *= size / _extent(radius)
    reach = np.interp(around, _AROUND, radius, period=2 * math.pi).astype(np.float32)
    return np.asarray(np.clip((reach - distance(du, dv)) / soft + 0.5, 0, 1), np.float32)


_AROUND = np.linspace(-math.pi, math.pi, 64, endpoint=False)


def _irregular_radius(rng: np.random.Generator, rough: float) -> NDArray[np.float64]:
    radius = np.ones_like(_AROUND)
    for order in range(2, 7):
        radius += rough / order * rng.standard_normal() * np.cos(order * _AROUND + rng.uniform(0, 2 * math.pi))
    return np.maximum(radius, 0.35)


def _extent(radius: NDArray[np.float64]) -> float:
    """Longest extent of a closed curve given by its radius at `_AROUND`."""
    return float((radius + np.roll(radius, radius.size // 2)).max())


def _on_body(scene: Scene) -> FloatMap:
    return np.clip(-scene.beyond, 0, 1)


def _on_electrode(scene: Scene) -> FloatMap:
    return np.clip(scene.beyond + 1, 0, 1)


def _body_place(scene: Scene, size: float, rng: np.random.Generator) -> tuple[float, float]:
    """A place on the body with room for `size`."""
    room_u = PART_WIDTH_PX / 2 - max(scene.look.electrode_width) - 3 - size / 2
    room_v = PART_HEIGHT_PX / 2 - 2 - size / 2
    return rng.uniform(-room_u, room_u), rng.uniform(-room_v, room_v)


def _side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _body_crack(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A dark, jagged, thin line."""
    u, v = _body_place(scene, size, rng)
    turn = rng.uniform(0, math.pi)
    steps = max(3, round(size / 2.5))
    along = np.linspace(-size / 2, size / 2, steps)
    aside = np.cumsum(rng.normal(0, 0.55, steps))
    aside -= np.linspace(aside[0], aside[-1], steps)
    points = np.stack(
        [u + along * math.cos(turn) - aside * math.sin(turn), v + along * math.sin(turn) + aside * math.cos(turn)],
        axis=1,
    )
    return _Draft(_line(scene, points, rng.uniform(0.5, 0.9)) * _on_body(scene), False)


def _scratch(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A bright, nearly straight line that fades towards its ends."""
    u, v = _body_place(scene, size, rng)
    turn = rng.uniform(0, math.pi)
    along = np.linspace(-size / 2, size / 2, 4)
    aside = rng.uniform(-0.04, 0.04) * size * (1 - (2 * along / size) ** 2)
    points = np.stack(
        [u + along * math.cos(turn) - aside * math.sin(turn), v + along * math.sin(turn) + aside * math.cos(turn)],
        axis=1,
    )
    line = _line(scene, points, rng.uniform(0.6, 1.0))
    run = ((scene.u - np.float32(u)) * math.cos(turn) + (scene.v - np.float32(v)) * math.sin(turn)) / (size / 2)
    fading = np.asarray(1 - 0.35 * np.minimum(np.square(run), 1), np.float32)
    return _Draft(line * fading * _on_body(scene), True)


def _body_chip(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A dark bite out of the body's long edge."""
    room = PART_WIDTH_PX / 2 - max(scene.look.electrode_width) - 3 - size / 2
    centre = (rng.uniform(-room, room), _side(rng) * (PART_HEIGHT_PX / 2 - BODY_INSET_PX - BITE_DEPTH * size))
    return _Draft(_blob(scene, centre, size, rng, rough=0.25, soft=1.0) * _on_body(scene), False)


def _body_stain(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A dark patch with a soft, irregular rim."""
    centre = _body_place(scene, size, rng)
    return _Draft(_blob(scene, centre, size, rng, rough=0.4, soft=2.2) * _on_body(scene), False)


def _delamination(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A bright swirl: the turns of a spiral over a lifted patch."""
    centre = _body_place(scene, size, rng)
    patch = _blob(scene, centre, size, rng, rough=0.2, soft=1.5) * _on_body(scene)
    du, dv = scene.u - np.float32(centre[0]), scene.v - np.float32(centre[1])
    turns = distance(du, 1.25 * dv) / np.float32(max(3.0, size / 3.2))
    phase = 2 * math.pi * turns + _side(rng) * np.arctan2(dv, du) + np.float32(rng.uniform(0, 2 * math.pi))
    arms = np.asarray(0.5 + 0.5 * np.cos(phase), np.float32)
    return _Draft(patch * (0.25 + 0.75 * arms), True, extent=patch)


def _electrode_spread(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A bright tongue of electrode metal that runs over the body."""
    end = _side(rng)
    edge = PART_WIDTH_PX / 2 - scene.look.electrode_width[0 if end < 0 else 1]
    room = PART_HEIGHT_PX / 2 - 2 - size / 2
    v = rng.uniform(-room, room)
    nearest = np.argmin(np.square(scene.u - np.float32(end * edge)) + np.square(scene.v - np.float32(v)))
    edge -= float(scene.beyond.flat[nearest])  # the inner edge is no straight line: where it is at this v
    tongue = _blob(scene, (end * (edge - 0.2 * size), v), 1.3 * size, rng, rough=0.25, soft=1.0)
    return _Draft(tongue * _on_body(scene), True)


def _electrode_edge_chip(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A dark bite out of an electrode's outer edge."""
    end = _side(rng)
    width = scene.look.electrode_width[0 if end < 0 else 1]
    inward = BITE_DEPTH * size
    if rng.random() < 0.5:
        room = PART_HEIGHT_PX / 2 - 5 - size / 2
        centre = (end * (PART_WIDTH_PX / 2 - inward), rng.uniform(-room, room))
    else:
        room = max(0.0, width / 2 - 4 - size / 2)
        centre = (
            end * (PART_WIDTH_PX / 2 - width / 2 + rng.uniform(-room, room)),
            _side(rng) * (PART_HEIGHT_PX / 2 - inward),
        )
    return _Draft(_blob(scene, centre, size, rng, rough=0.25, soft=1.0) * _on_electrode(scene), False)


def _electrode_corner_missing(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A corner broken off along a slanted, uneven line of length `size`."""
    rounding = 0.2 * scene.look.corner_radius
    to_end = PART_WIDTH_PX / 2 - rounding - _side(rng) * scene.u
    to_side = PART_HEIGHT_PX / 2 - rounding - _side(rng) * scene.v
    slant = math.radians(rng.uniform(32, 58))
    leg_u, leg_v = size * math.cos(slant), size * math.sin(slant)
    along = np.linspace(0, 1, 7)
    uneven = np.interp(np.clip(to_end / leg_u, 0, 1), along, rng.normal(0, 0.06, along.size))
    depth = (1 - to_end / leg_u - to_side / leg_v + uneven) * (leg_u * leg_v / size)
    return _Draft(np.clip(depth + 0.5, 0, 1).astype(np.float32) * _on_electrode(scene), False)


def _exposed_body(scene: Scene, size: float, rng: np.random.Generator) -> _Draft:
    """A hole in an electrode through which the ceramic shows."""
    end = _side(rng)
    width = scene.look.electrode_width[0 if end < 0 else 1]
    room_u = max(0.0, width / 2 - 2.5 - size / 2)
    room_v = PART_HEIGHT_PX / 2 - 4 - size / 2
    centre = (end * (PART_WIDTH_PX / 2 - width / 2 + rng.uniform(-room_u, room_u)), rng.uniform(-room_v, room_v))
    return _Draft(_blob(scene, centre, size, rng, rough=0.4, soft=1.0) * _on_electrode(scene), False)


_DRAW: Mapping[DefectType, Callable[[Scene, float, np.random.Generator], _Draft]] = MappingProxyType(
    {
        DefectType.BODY_CRACK: _body_crack,
        DefectType.BODY_CHIP: _body_chip,
        DefectType.BODY_STAIN: _body_stain,
        DefectType.SCRATCH: _scratch,
        DefectType.DELAMINATION: _delamination,
        DefectType.ELECTRODE_SPREAD: _electrode_spread,
        DefectType.ELECTRODE_EDGE_CHIP: _electrode_edge_chip,
        DefectType.ELECTRODE_CORNER_MISSING: _electrode_corner_missing,
        DefectType.EXPOSED_BODY: _exposed_body,
    }
)
