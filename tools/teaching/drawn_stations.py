"""Good parts of stations that do not exist: drawn surfaces, edges and light, each varying as parts of a line do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

POSED_SHARE = 0.75
"""Stations whose parts lie in one pose; the others are bare surface."""
MOST_SHAPES = 8
CUT_SHARE = 0.5
"""Posed stations whose canvas is black outside a rectangle, as with locate.mode bright_part."""
CORNERS = 64
"""Points of an outline."""
FRACTION_BITS = 4
"""Of a pixel, in OpenCV's coordinates."""


@dataclass(frozen=True, slots=True)
class DrawnStation:
    """parts: (P, h, w, 3) uint8 RGB good parts; inside: (h, w) bool, what belongs to them; posed: in one pose."""

    parts: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    posed: bool


def draw_station(rng: np.random.Generator, parts: int, height: int, width: int) -> DrawnStation:
    """A station and so many of its good parts; all that varies, and how much, is drawn from wide ranges."""
    posed = bool(rng.random() < POSED_SHARE)
    scene = _Scene(rng, height, width, posed=posed)
    inside = np.ones((height, width), np.bool_)
    if posed and rng.random() < CUT_SHARE:
        top, bottom = rng.integers(0, height // 6), height - rng.integers(0, height // 6)
        left, right = rng.integers(0, width // 6), width - rng.integers(0, width // 6)
        inside[:] = False
        inside[top:bottom, left:right] = True
    drawn = np.stack([scene.part(rng) for _ in range(parts)])
    drawn[:, ~inside] = 0
    return DrawnStation(drawn, inside, posed)


class _Texture:
    """A grain: noise of one spectrum, which may have a direction, a coarser one over it, and heavy tails."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.amount = _log_uniform(rng, 0.4, 12)  # deviation, in grey levels
        self._across = _log_uniform(rng, 0.3, 3.0)  # of the Gaussian that makes the grain, in pixels
        self._down = self._across if rng.random() < 0.6 else _log_uniform(rng, 0.3, 6.0)
        self._power = rng.uniform(1, 1.5)
        self._colour = rng.uniform(0, 0.3)
        self._coarse_share, self._coarse = rng.uniform(0, 0.7), _log_uniform(rng, 3, 12)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Doubles:
        """(h, w, 3), about 0."""
        grain = np.repeat(self._field(rng, height, width)[..., None], 3, axis=2)
        if self._colour > 0.1:
            grain += self._colour * np.stack([self._field(rng, height, width) for _ in range(3)], axis=-1)
        return self.amount * grain

    def _field(self, rng: np.random.Generator, height: int, width: int) -> Doubles:
        field = _noise(rng, height, width, self._across, self._down)
        if self._coarse_share > 0.3:
            coarse = _noise(rng, height, width, self._coarse, self._coarse)
            field = (1 - self._coarse_share) * field + self._coarse_share * coarse
        return _of_deviation_one(np.sign(field) * np.abs(field) ** self._power)


class _Shape:
    """One thing on the part: its outline, colour and grain, and how much each of them varies between parts."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, *, whole: bool = False) -> None:
        self._outline = _body(rng, height, width) if whole else _outline(rng, height, width)
        self._colour = rng.uniform(15, 240) + rng.normal(0, rng.uniform(2, 25), 3)
        self._texture = _Texture(rng)
        self._shift, self._stretch = _log_uniform(rng, 0.05, 1.2), _log_uniform(rng, 0.001, 0.02)
        self._waves, self._hue = _log_uniform(rng, 0.02, 1.0), _log_uniform(rng, 0.3, 5)
        self._focus = rng.uniform(0.4, 1.6)

    def paint(self, image: Doubles, rng: np.random.Generator, move: Doubles) -> Doubles:
        """The image (h, w, 3) with the shape on it; move: (2, 3), how this part lies."""
        height, width = image.shape[:2]
        cover = self._cover(rng, move, height, width)[..., None]
        colour = self._colour + rng.normal(0, self._hue) + rng.normal(0, self._hue / 5, 3)
        return image * (1 - cover) + cover * (colour + self._texture.draw(rng, height, width))

    def _cover(self, rng: np.random.Generator, move: Doubles, height: int, width: int) -> Floats:
        points = self._outline @ move[:, :2].T + move[:, 2]
        centre = points.mean(axis=0)
        points = centre + (points - centre) * (1 + rng.normal(0, self._stretch, 2)) + rng.normal(0, self._shift, 2)
        points += self._waves * _waves(rng, len(points))
        cover = np.zeros((height, width), np.uint8)
        corners = np.round(points * 2**FRACTION_BITS).astype(np.int32)
        cv2.fillPoly(cover, [corners], (255,), cv2.LINE_AA, FRACTION_BITS)
        blurred = np.asarray(cv2.GaussianBlur(cover, (0, 0), self._focus), np.float32)
        return blurred / np.float32(255)


class _Scene:
    """Ground, shapes, light and sensor of a station."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, *, posed: bool) -> None:
        self._shape = height, width
        self._ground = _Texture(rng)
        self._colour: Doubles = rng.uniform(20, 235) + rng.normal(0, 12, 3)
        self._shapes: list[_Shape] = []
        if posed:
            count = int(rng.integers(0, MOST_SHAPES))
            self._shapes = [_Shape(rng, height, width, whole=True)]
            self._shapes += [_Shape(rng, height, width) for _ in range(count)]
            if rng.random() < 0.6:  # a dark, plain background
                self._colour = np.full(3, rng.uniform(0, 15))
                self._ground.amount = min(self._ground.amount, 1)
        self._shift, self._turn = _log_uniform(rng, 0.03, 0.8), _log_uniform(rng, 0.02, 0.6)  # pixels, degrees
        self._light, self._slope = _log_uniform(rng, 0.003, 0.06), _log_uniform(rng, 0.002, 0.05)
        self._shade, self._noise = _log_uniform(rng, 0.3, 6), _log_uniform(rng, 0.4, 4)  # grey levels
        self._specks, self._speck = rng.uniform(0, 1) ** 2 * 6, rng.uniform(1, 3)
        down, across = np.mgrid[0:height, 0:width].astype(np.float64)
        self._down, self._across = down, across

    def part(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """One good part (h, w, 3)."""
        height, width = self._shape
        move = self._pose(rng)
        image = self._colour + self._ground.draw(rng, height, width)
        for shape in self._shapes:
            image = shape.paint(image, rng, move)
        for _ in range(rng.poisson(self._specks)):
            image += self._faint_speck(rng)[..., None]
        slope = rng.normal(0, self._slope, 2)
        light = 1 + rng.normal(0, self._light) + slope[0] * (self._down / height - 0.5)
        light += slope[1] * (self._across / width - 0.5)
        shade = self._shade * rng.uniform(0, 1) * _noise(rng, height, width, 12, 12)
        image = image * light[..., None] + shade[..., None] * (image / 255)
        image += rng.normal(0, self._noise, image.shape)
        return np.asarray(np.clip(np.round(image), 0, 255), np.uint8)

    def _pose(self, rng: np.random.Generator) -> Doubles:
        """(2, 3): how one part is turned about the middle, and shifted."""
        height, width = self._shape
        angle = math.radians(rng.normal(0, self._turn))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        middle = np.array([width / 2, height / 2])
        return np.column_stack([turn, middle - turn @ middle + rng.normal(0, self._shift, 2)])

    def _faint_speck(self, rng: np.random.Generator) -> Doubles:
        """(h, w): a faint spot as good parts have them."""
        height, width = self._shape
        row, column, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.6, 2.5)
        away = (self._down - row) ** 2 + (self._across - column) ** 2
        spot: Doubles = rng.normal() * self._speck * self._noise * np.exp(-away / (2 * radius**2))
        return spot


def _outline(rng: np.random.Generator, height: int, width: int) -> Doubles:
    """(N, 2) x and y of a band, a box, an ellipse, a blob or a bar, anywhere."""
    kind = rng.integers(5)
    if kind == 0:
        first, last = np.sort(rng.uniform(0, 1, 2))
        last = max(last, first + 0.06)
        if rng.random() < 0.5:
            return _box(-9, first * width, height + 9, last * width)
        return _box(first * height, -9, last * height, width + 9)
    row, column = rng.uniform(0, height), rng.uniform(0, width)
    if kind == 1:
        half = rng.uniform(3, height / 2), rng.uniform(3, width / 2)
        return _turned(_box(row - half[0], column - half[1], row + half[0], column + half[1]), rng)
    if kind == 4:
        length, thick = rng.uniform(4, width / 2), rng.uniform(0.6, 2.5)
        return _turned(_box(row - thick, column - length / 2, row + thick, column + length / 2), rng)
    around = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    radii = rng.uniform(2, height / 3, 2) if kind == 2 else np.repeat(rng.uniform(4, height / 2), 2)
    uneven = np.ones(CORNERS)
    if kind == 3:
        for order in range(1, 6):
            uneven += rng.normal(0, 0.3 / order) * np.cos(order * around + rng.uniform(0, 2 * math.pi))
    return np.stack([column + radii[0] * uneven * np.cos(around), row + radii[1] * uneven * np.sin(around)], axis=-1)


def _body(rng: np.random.Generator, height: int, width: int) -> Doubles:
    """The part itself: nearly the whole view, or a little more."""
    top, bottom = rng.uniform(-4, 0.12 * height), height - rng.uniform(-4, 0.12 * height)
    left, right = rng.uniform(-4, 0.12 * width), width - rng.uniform(-4, 0.12 * width)
    return _box(top, left, bottom, right)


def _box(top: float, left: float, bottom: float, right: float) -> Doubles:
    """(CORNERS, 2) x and y along its four sides."""
    share, count = np.linspace(0, 1, CORNERS // 4, endpoint=False), CORNERS // 4
    xs, ys = left + (right - left) * share, top + (bottom - top) * share
    sides = [
        (xs, np.full(count, top)),
        (np.full(count, right), ys),
        (right - (xs - left), np.full(count, bottom)),
        (np.full(count, left), bottom - (ys - top)),
    ]
    return np.concatenate([np.stack(side, axis=-1) for side in sides])


def _turned(points: Doubles, rng: np.random.Generator) -> Doubles:
    """Half of the outlines are turned about their middle, by any angle."""
    if rng.random() < 0.5:
        return points
    angle, centre = rng.uniform(0, math.pi), points.mean(axis=0)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned: Doubles = centre + (points - centre) @ turn.T
    return turned


def _waves(rng: np.random.Generator, count: int) -> Doubles:
    """(count, 2): a smooth random closed curve of deviation 1: how an edge runs differently on each part."""
    order = np.arange(count // 2 + 1)
    spectrum = rng.normal(size=(len(order), 2)) + 1j * rng.normal(size=(len(order), 2))
    waves: Doubles = np.fft.irfft(spectrum * np.exp(-order / 4)[:, None], count, axis=0)
    waves /= waves.std() + 1e-9
    return waves


def _noise(rng: np.random.Generator, height: int, width: int, across: float, down: float) -> Doubles:
    """(h, w) of deviation 1: white noise under a Gaussian of these deviations."""
    noise = rng.standard_normal((height, width))
    if max(across, down) > 0.4:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=across, sigmaY=down), np.float64)
    return _of_deviation_one(noise)


def _of_deviation_one(field: Doubles) -> Doubles:
    scaled: Doubles = field / (field.std() + 1e-6)
    return scaled


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
