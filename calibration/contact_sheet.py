"""The parts of a labelled set that tell most, as one picture: the worst errors of both kinds, or what came nearest.

`Gallery` is shown every part while a set is evaluated, and keeps only what the sheet has room for.
"""

from __future__ import annotations

import heapq
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import theilslopes

from calibration.dataset import GOOD
from calibration.evaluate import inside_regions
from calibration.part_table import Decider, JudgedPart, Limits, readable
from calibration.plots import DPI, INK, QUIET, RED
from engines.settings import RegionSettings

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
ROOM = 12
"""Parts of each kind that a sheet shows at most."""
COLUMNS = 4
NEAREST = 25
"""Parts, those whose scores are nearest to the limit, from which the colour scale is found."""
TILE_IN, GAP_IN, MARGIN_IN, TITLE_IN, HEADING_IN, HEADER_IN, BELOW_IN = 1.42, 0.2, 0.22, 0.32, 0.34, 0.95, 0.15
NAME_LETTERS = 40
HEAT = LinearSegmentedColormap.from_list(
    "share of the limit", [(0.0, "#ffee58"), (0.45, "#ffd21f"), (0.5, "#f4772e"), (0.75, "#d7263d"), (1.0, "#6a0f49")]
)
"""Pale below the limit, which is at 0.5, and red from it on: what rejects is told apart at a glance."""
OUTLINE = "#12a4d9"
UNDERLAY = 0.7
"""Share of a part's brightness under its map: white parts would drown pale colours."""


class Kind(Enum):
    """What a verdict is worth. The value says which margins are kept: 1 the highest, -1 the lowest."""

    MISSED = ("missed", -1)
    CAUGHT = ("caught", -1)
    WRONGLY_REJECTED = ("wrongly rejected", 1)
    PASSED = ("passed", 1)

    @classmethod
    def of(cls, part: JudgedPart) -> Kind:
        """The kind of a part by its label and verdict."""
        if part.sample.label == GOOD:
            return cls.WRONGLY_REJECTED if part.rejected else cls.PASSED
        return cls.CAUGHT if part.rejected else cls.MISSED

    @property
    def sign(self) -> int:
        """1 where the highest margins are kept, -1 where the lowest are."""
        return self.value[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part that is kept: its image (H, W, 3) uint8 RGB, map (H1, W1), and defect (H, W), None where unknown."""

    part: JudgedPart
    decider: Decider
    part_image: Image
    anomaly_map: NDArray[np.float32]
    mask: Bools | None


class Gallery:
    """Keeps the parts that a contact sheet shows: of each kind the `room` with the worst, or nearest, margins.

    Implements `calibration.evaluate.Onlooker`. Of all other parts two numbers are kept.
    """

    def __init__(self, limits: Limits, regions: Sequence[RegionSettings], room: int = ROOM) -> None:
        self.limits, self.room = limits, room
        self.counts: Counter[Kind] = Counter()
        self.regions = regions
        self._kept: dict[Kind, list[tuple[float, int, Tile]]] = {kind: [] for kind in Kind}
        self._scores: list[float] = []
        self._peaks: list[float] = []
        self._inside: Bools | None = None

    def show(self, part: JudgedPart, part_image: Image, anomaly_map: NDArray[np.float32], mask: Bools | None) -> None:
        """Take note of an inspected part; copies what it keeps."""
        kind, decider = Kind.of(part), self.limits.decider(part)
        self.counts[kind] += 1
        if self._inside is None:
            self._inside = _touched(inside_regions(part_image.shape[:2], self.regions), anomaly_map.shape)
        self._scores.append(part.part_score)
        self._peaks.append(float(anomaly_map[self._inside].max()))
        kept, key = self._kept[kind], (kind.sign * decider.margin, -len(self._scores))
        if len(kept) >= self.room and key <= kept[0][:2]:
            return
        tile = Tile(
            part=part,
            decider=decider,
            part_image=part_image.copy(),
            anomaly_map=anomaly_map.copy(),
            mask=None if mask is None else mask.copy(),
        )
        (heapq.heappush if len(kept) < self.room else heapq.heapreplace)(kept, (*key, tile))

    def tiles(self, kind: Kind) -> list[Tile]:
        """Those kept of a kind: errors from the worst on, correct verdicts from the nearest to the limit on."""
        return [tile for *_, tile in sorted(self._kept[kind], key=lambda entry: entry[:2], reverse=True)]

    def level_at_limit(self) -> float:
        """The value of the anomaly map's highest cell at which a part's score reaches the part limit.

        In some formulas the score is that cell, in others it is brought to other units and more is added
        (docs/scores.md). So it is read from the parts: a Theil-Sen line through the highest cells of the NEAREST parts
        over their scores, at the limit; where these do not rise together, the cells' median. Always more than 0.
        """
        scores, peaks = np.array(self._scores), np.array(self._peaks)
        nearest = np.argsort(np.abs(scores - self.limits.part), kind="stable")[:NEAREST]
        scores, peaks = scores[nearest], peaks[nearest]
        level = float(np.median(peaks))
        if len(np.unique(scores)) > 1:
            slope, intercept = theilslopes(peaks, scores)[:2]
            level = float(intercept + slope * self.limits.part) if slope > 0 else level
        return level if level > 0 else max(float(np.abs(peaks).max()), 1e-9)


def _touched(inside: Bools, cells: tuple[int, ...]) -> Bools:
    """The cells of a map of this shape that touch what is inside, on the canvas."""
    size = (cells[1], cells[0])
    return np.asarray(cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0)


@dataclass(frozen=True, slots=True)
class _Section:
    """A heading and the parts below it. error: whether they are errors, which are written in red."""

    heading: str
    tiles: tuple[Tile, ...]
    error: bool


def contact_sheet(gallery: Gallery, title: str, invalid: tuple[int, int] = (0, 0)) -> bytes:
    """The sheet as PNG: each part, and beside it its anomaly map over it, in colours of one scale.

    First missed defects, the lowest margins first, then good parts wrongly rejected, the highest first, `room` of each
    at most; where they are fewer, the correct ones nearest to the limit fill the room, under a heading that says so.
    invalid: how many good and defective parts were INVALID; they have no picture, and are told of. title: one line.
    Raises ValueError where the gallery was shown no part.
    """
    if not gallery.counts:
        raise ValueError("a contact sheet needs an inspected part")
    sections = list(_sections(gallery))
    some = next(tile for section in sections for tile in section.tiles)
    height_px, width_px = some.part_image.shape[:2]
    sheet = _Sheet(TILE_IN * height_px / width_px, sections)
    sheet.header(title, _notes(gallery, invalid))
    level = gallery.level_at_limit()
    inside = inside_regions((height_px, width_px), gallery.regions)
    for section in sections:
        sheet.section(section, level, inside)
    return sheet.png()


def _sections(gallery: Gallery) -> list[_Section]:
    counts, found = gallery.counts, []
    kinds = (
        (Kind.MISSED, Kind.CAUGHT, "missed defects", "defects that were rejected, nearest to the limit first"),
        (Kind.WRONGLY_REJECTED, Kind.PASSED, "good parts wrongly rejected", "good parts that passed, nearest first"),
    )
    for wrong, right, wrong_name, right_name in kinds:
        whole = counts[wrong] + counts[right]
        if not whole:
            continue
        errors, others = gallery.tiles(wrong), gallery.tiles(right)
        shown = f", the worst {len(errors)}" if len(errors) < counts[wrong] else ""
        heading = f"{wrong_name}: {counts[wrong]} of {whole}{shown}"
        found.append(_Section(heading[0].upper() + heading[1:], tuple(errors), error=True))
        others = others[: gallery.room - len(errors)]
        if others:
            found.append(_Section(f"For comparison, correct: {right_name}", tuple(others), error=False))
    return found


def _notes(gallery: Gallery, invalid: tuple[int, int]) -> list[str]:
    notes = [
        "Left the part, right its anomaly map over it, with the colours of the bar; where no region is, none.",
        "Below each name: the score that is nearest to its limit or farthest beyond it, the limit, and their ratio.",
    ]
    tiles = [tile for kind in Kind for tile in gallery.tiles(kind)]
    if any(tile.mask is not None and tile.mask.any() for tile in tiles):
        notes[0] += " Blue: the marked defect."
    if any(invalid):
        notes.append(f"Not shown, as they have no scores: {invalid[0]} good and {invalid[1]} defective INVALID parts.")
    return notes


class _Sheet:
    """Places everything from the top down, in inches: rows of all sections have one height, whatever is in them."""

    def __init__(self, tile_height_in: float, sections: Sequence[_Section]) -> None:
        self.tile_height_in = tile_height_in
        rows = sum(-(-len(section.tiles) // COLUMNS) for section in sections)
        self.width_in = 2 * MARGIN_IN + COLUMNS * (2 * TILE_IN + GAP_IN) - GAP_IN
        self.height_in = (
            HEADER_IN + len(sections) * HEADING_IN + rows * (TITLE_IN + tile_height_in + BELOW_IN) + 2 * MARGIN_IN
        )
        self.figure = Figure(figsize=(self.width_in, self.height_in), dpi=DPI, facecolor="white")
        self.top_in = self.height_in - MARGIN_IN

    def header(self, title: str, notes: Sequence[str]) -> None:
        """The title, what is seen, and the bar of colours at the right."""
        self._write(MARGIN_IN, self.top_in, _short(title, 110), size=10.5, weight="bold")
        for number, note in enumerate(notes):
            self._write(MARGIN_IN, self.top_in - 0.27 - 0.17 * number, note, size=7.5, color=QUIET)
        bar_in = 2.3
        left, bottom = self.width_in - MARGIN_IN - bar_in - 0.45, self.top_in - 0.42
        axes = self._axes(left, bottom, bar_in, 0.14)
        share = np.linspace(0, 1, 256)[None, :]
        grey = np.full((1, 256, 3), 150, np.uint8)
        axes.imshow(_mixed(grey, share), aspect="auto", extent=(0, 2, 0, 1), interpolation="nearest")
        axes.set_axis_on()
        axes.set_yticks([])
        axes.set_xticks([0, 1, 2], ["0", "limit", "2 x limit or more"])
        axes.tick_params(labelsize=7, length=2.5, color=QUIET, labelcolor=INK)
        axes.spines[:].set_visible(False)
        self._write(left, self.top_in - 0.06, "Anomaly map: one scale for all parts", size=7.5)
        self._write(left, bottom - 0.22, "limit: the cell at which a part's score reaches it", size=6.5, color=QUIET)
        self.top_in -= HEADER_IN

    def section(self, section: _Section, level: float, inside: Bools) -> None:
        """A heading and rows of parts. level: the value of the map at the limit."""
        self._write(MARGIN_IN, self.top_in - 0.06, section.heading, size=9.5, weight="bold", color=_ink(section))
        self.top_in -= HEADING_IN
        for index, tile in enumerate(section.tiles):
            row, column = divmod(index, COLUMNS)
            if column == 0 and row > 0:
                self._next_row()
            self._pair(tile, MARGIN_IN + column * (2 * TILE_IN + GAP_IN), _ink(section), (level, inside))
        if section.tiles:
            self._next_row()

    def png(self) -> bytes:
        """The picture."""
        buffer = io.BytesIO()
        FigureCanvasAgg(self.figure)  # makes itself the figure's canvas
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # of file names: a box stands there
            self.figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def _next_row(self) -> None:
        self.top_in -= TITLE_IN + self.tile_height_in + BELOW_IN

    def _pair(self, tile: Tile, left_in: float, color: str, scale: tuple[float, Bools]) -> None:
        path, decider = tile.part.sample.path, tile.decider
        self._write(left_in, self.top_in, _short(f"{path.parent.name}/{path.name}"), size=7.2)
        what = f"region {decider.region}" if decider.region else "score"
        numbers = f"{what} {decider.score:.3g} / limit {decider.limit:.3g}"
        if decider.limit > 0 and decider.score >= 0:
            numbers += f" = {decider.score / decider.limit:.2f}"
        self._write(left_in, self.top_in - 0.155, numbers, size=6.8, color=color)
        bottom_in = self.top_in - TITLE_IN - self.tile_height_in
        first, second = (
            self._axes(left_in + place * (TILE_IN + 0.03), bottom_in, TILE_IN, self.tile_height_in) for place in (0, 1)
        )
        first.imshow(tile.part_image, aspect="auto")
        second.imshow(_heated(tile, *scale), aspect="auto")
        if tile.mask is not None and tile.mask.any():
            first.contour(tile.mask, levels=[0.5], colors=OUTLINE, linewidths=0.8)

    def _axes(self, left_in: float, bottom_in: float, width_in: float, height_in: float) -> Axes:
        width, height = self.width_in, self.height_in
        axes = self.figure.add_axes((left_in / width, bottom_in / height, width_in / width, height_in / height))
        axes.set_axis_off()
        return axes

    def _write(self, left_in: float, top_in: float, text: str, **style: Any) -> None:
        style = {"color": INK, **style}
        left, top = left_in / self.width_in, top_in / self.height_in
        self.figure.text(left, top, text, va="top", ha="left", parse_math=False, **style)


def _ink(section: _Section) -> str:
    return RED if section.error else QUIET


def _short(text: str, letters: int = NAME_LETTERS) -> str:
    """The text in so many letters at most: the middle goes, because names often differ at their ends."""
    text = readable(text)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(text) <= letters:
        return text
    head = (letters - 1) // 3
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


def _heated(tile: Tile, level: float, inside: Bools) -> Image:
    """The part in grey under its map's colours; full colour at twice `level`, none outside the regions."""
    height, width = inside.shape
    full = cv2.resize(tile.anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
    share = np.where(inside, np.clip(full / (2 * level), 0, 1), 0)
    grey = cv2.cvtColor(tile.part_image, cv2.COLOR_RGB2GRAY)
    return _mixed(np.repeat(grey[:, :, None], 3, axis=2), share)


def _mixed(grey: Image, share: NDArray[np.floating]) -> Image:
    """Colours of HEAT for shares (H, W) of the scale over (H, W, 3) grey; the less, the more of the part is seen."""
    heat = 255 * HEAT(share)[:, :, :3]
    alpha = np.interp(share, [0, 0.25, 0.5, 1], [0, 0.45, 0.75, 0.9])[:, :, None]
    mixed: Image = np.rint((1 - alpha) * UNDERLAY * grey + alpha * heat).astype(np.uint8)
    return mixed
