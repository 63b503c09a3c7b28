"""Defects made on good parts, of many kinds and five sizes, to choose by and to show what a station should catch.

They stand in for defects that nobody has collected yet: pieces from elsewhere and from other parts, foreign textures,
scratches, stains, missing pieces, bends, blur, dirt, uneven light, and surfaces that are wrong everywhere. Each lies
on its part, inside a region, and is visible: it is drawn again, elsewhere and stronger, until `visibility` says so.
Nothing here is learnt from defective parts. Cutting and pasting follows CutPaste (Li et al., CVPR 2021), foreign
textures DRAEM (Zavrtanik et al., ICCV 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.repeatable import distance
from engines.settings import RegionSettings

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Drawn = tuple[Floats, Floats]
"""What replaces the window (h, w, 3), and how much of it, (h, w) of 0..1."""

SIZES: Final = MappingProxyType(
    {
        "small": (0.015, 0.03),
        "medium": (0.04, 0.08),
        "large": (0.10, 0.20),
        "extended": (0.30, 0.60),
        "whole": (1.2, 1.4),
    }
)
"""Longest extent of a defect as a share of the part's side (geometric mean of height and width) in its region and those
that touch it. Scratches and fibres are LINE_LENGTH times as long."""
LEAST_SIZE_PX: Final = MappingProxyType({"small": 2.5, "medium": 4.0, "large": 6.5, "extended": 12.0, "whole": 40.0})
LINE_LENGTH = 2.5
REACH, MARGIN_PX = 1.7, 6
"""A window reaches so many sizes and pixels from its defect's middle."""

VISIBLE_GRAINS: Final = MappingProxyType({"small": 3.0, "medium": 2.5, "large": 2.2, "extended": 0.8, "whole": 0.4})
VISIBLE_LEVELS: Final = MappingProxyType({"small": 20.0, "medium": 13.0, "large": 9.0, "extended": 6.0, "whole": 4.0})
"""Least root-mean-square change over the mask, in deviations of the part's own local grain and in levels of 0..255:
what is small must be stronger to be seen."""
LENIENT_GRAINS: Final = MappingProxyType(
    {
        "blur": {"small": 2.2, "medium": 1.5, "large": 1.0, "extended": 0.8},
        "bend": {"small": 2.1, "medium": 1.75, "large": 1.5, "extended": 1.0},
    }
)
"""The same for kinds that only move or take away what is there: blur changes little more than the grain itself; both
are seen by their shape."""
BLACK = np.uint8(16)
"""Levels below all look black."""
DARK, BRIGHTER_SHARE = 64.0, 0.8
"""On surfaces below this level most contrasts are brighter."""
LEAST_EXTENT = 0.5
"""Of the size drawn: less of it within part and region is drawn again elsewhere."""
STRONGER = 1.15
"""By so much a defect that could not be seen grows, each time."""
ATTEMPTS = 24
LEAST_GRAIN = 1.5
LEAST_MASK_PX = 4
MASK_SHARE, MASK_LEVELS = 0.15, 2.0
"""The mask holds what changed by more than this share of the defect's strongest change, and more than these levels."""
CLOSED_SHARE = 0.1
"""Gaps up to so much of the size are closed."""
FADE_PX = 2
"""Change reaches so far beyond the mask and no further."""

LEAST_FOREGROUND, MOST_FOREGROUND = 0.15, 0.90
"""Of a region; with less or more of it standing out from the background, the whole region is the part."""
EVEN_BORDER = 0.7
"""Share of the picture's border that must look alike to be called background."""
BACKGROUND_LEVELS, BACKGROUND_GRAINS = 16.0, 6.0
SILHOUETTE_PX = 3
"""Pieces break off where the background is so near."""
AROUND = np.linspace(-math.pi, math.pi, 64, endpoint=False)
FAINTEST, STRONGEST, MOST = 1.2, 3.0, 4.0
"""Contrast of a defect, in what is just visible, drawn log-uniformly; and what it grows to."""
PLACES = 8
LEAST_SILHOUETTE_PX = 8
ON_STRUCTURE: Final = frozenset({"bend", "blur"})
"""Kinds that show only where the part has edges: they take the busiest of PLACES places, of more with each
attempt."""
EXTENDED: Final = ("texture", "stain", "light")
"""Kinds that are also made over much of the part, and fainter: what is wide is seen although no place stands out."""
WHOLE: Final = ("finish", "clouds")
"""Kinds that change the whole surface, and are made in no other size."""
OFF_THE_PART: Final = frozenset({"bend"})
"""Kinds that may reach beyond the part's outline."""
FALLBACK: Final = "stain"
CLOSEUP, CLOSEUP_PX = 2, 24
"""Close-ups show so many times the defect's longer side, and so many pixels at least."""
PARTS_KEPT = 64
"""So many parts stay looked at, for memory's sake."""
FINE = 4
"""Lines are drawn so many times larger, then averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDefect:
    """A good part with one made defect.

    image: (H, W, 3) uint8 RGB; mask: (H, W) bool, the pixels that changed; kind: one of KINDS; size: one of
    SIZES; source: place of the good part among those it was made from.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    kind: str
    size: str
    source: int


def make_defects(
    images: NDArray[np.uint8], regions: Sequence[RegionSettings], count: int, seed: int
) -> list[MadeDefect]:
    """Make `count` defects on copies of good parts (P, H, W, 3) uint8 RGB, inside the regions.

    Kinds go round, then sizes, and parts in shuffled rounds. Defect k depends on the parts, the regions, the seed and k
    alone. Where a kind cannot be seen on a part (blur on a blank surface), a stain takes its place and is called one;
    where nothing can be seen (noise over all levels), the most visible of what was tried is given.
    Raises ValueError without parts or regions, with a region outside the images, or where `count` is negative.
    """
    if len(images) == 0 or len(regions) == 0 or count < 0:
        raise ValueError("made defects need at least one good part, at least one region, and a count of 0 or more")
    station = _Station(images, regions)
    made = []
    for k in range(count):
        kind, size = WANTED[k % len(WANTED)]
        order = np.random.default_rng([seed, 1, k // len(images)]).permutation(len(images))
        rng = np.random.default_rng([seed, 0, k])
        made.append(_make(station, int(order[k % len(images)]), kind, size, rng))
    return made


def with_defects(images: Images, regions: Sequence[RegionSettings], seed: int) -> Images:
    """Copies of good parts (P, H, W, 3) uint8, each with one defect of a random kind and size inside a region.

    The same seed gives the same defects. Raises ValueError with a region outside the images.
    """
    station = _Station(images, regions)
    marked = np.empty_like(images)
    for place in range(len(images)):
        rng = np.random.default_rng([seed, 2, place])
        kind, size = WANTED[int(rng.integers(len(WANTED)))]
        marked[place] = _make(station, place, kind, size, rng).image
    return marked


def visibility(good: NDArray[np.uint8], defect: MadeDefect) -> float:
    """How far a defect exceeds what a person needs to see it on its good part (H, W, 3): 1 is just visible.

    The root-mean-square change over mask and channels, divided by what its size needs: VISIBLE_GRAINS (or
    LENIENT_GRAINS) deviations of the good part's grain around it, and VISIBLE_LEVELS at least. 0 where the mask is
    empty.
    """
    box = _box(defect.mask)
    if box is None:
        return 0.0
    extent = float(max(box[1] - box[0], box[3] - box[2]))
    window = _window((box[0] + box[1] - 1) / 2, (box[2] + box[3] - 1) / 2, extent, defect.mask.shape)
    mask = defect.mask[window]
    before, after = np.maximum(good[window], BLACK), np.maximum(defect.image[window], BLACK)
    change = after[mask].astype(np.float32) - before[mask]
    rms = math.sqrt(float(np.square(change).mean()))
    return rms / _needed(defect.kind, defect.size, _grain(good[window].astype(np.float32), extent, mask))


def gallery(
    defects: Sequence[MadeDefect], columns: int, *, side_px: int = 200, boxes: bool = True, closeups: bool = False
) -> NDArray[np.uint8]:
    """A contact sheet of defects, row by row, as one RGB picture: each with its kind and size, and a box around it.

    Pictures keep their shape and are side_px on their longer side; with `closeups` each has the defect and its
    surroundings beside it, enlarged. Raises ValueError without defects or columns.
    """
    if len(defects) == 0 or columns < 1:
        raise ValueError("a gallery needs at least one defect and one column")
    tiles = [_tile(defect, side_px, boxes=boxes, closeup=closeups) for defect in defects]
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _tile(defect: MadeDefect, side_px: int, *, boxes: bool, closeup: bool) -> Images:
    """One picture of the gallery, with a white margin and its label below."""
    scale = side_px / max(defect.mask.shape)
    height, width = (max(1, round(side * scale)) for side in defect.mask.shape)
    picture = _resized(defect.image, height, width)
    box = _box(defect.mask)
    if boxes and box is not None:
        low = (int(box[2] * scale) - 4, int(box[0] * scale) - 4)
        high = (int(box[3] * scale) + 4, int(box[1] * scale) + 4)
        cv2.rectangle(picture, low, high, (255, 60, 0), 1)
    if closeup:
        picture = np.concatenate([picture, _closeup(defect, height)], axis=1)
    label, margin = 16, 2
    tile = np.full((height + label + margin, picture.shape[1] + 2 * margin, 3), 255, np.uint8)
    tile[margin : margin + height, margin : margin + picture.shape[1]] = picture
    text = f"{defect.kind}, {defect.size}"
    at = (margin, height + margin + 11)
    cv2.putText(tile, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _closeup(defect: MadeDefect, side_px: int) -> Images:
    """The defect with its surroundings, (side_px, side_px, 3)."""
    top, bottom, left, right = _box(defect.mask) or (0, defect.mask.shape[0], 0, defect.mask.shape[1])
    side = min(max(CLOSEUP_PX, CLOSEUP * max(bottom - top, right - left)), *defect.mask.shape)
    row = int(np.clip((top + bottom - side) // 2, 0, defect.mask.shape[0] - side))
    column = int(np.clip((left + right - side) // 2, 0, defect.mask.shape[1] - side))
    return _resized(defect.image[row : row + side, column : column + side], side_px, side_px)


def _resized(image: Images, height: int, width: int) -> Images:
    by = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=by), np.uint8)


# ---- where defects may be ----


@dataclass(frozen=True, slots=True)
class _Zone:
    """A region of one part: flat indices well on the part, those of its silhouette, and its side in px."""

    part: NDArray[np.int32]
    silhouette: NDArray[np.int32]
    side: float


@dataclass(frozen=True, slots=True)
class _Part:
    """A good part: its pixels; (H, W) each: where it is within the regions, what stands out from an even background,
    how busy each place is; and its regions."""

    image: Images
    foreground: Mask
    stands_out: Mask
    busy: Floats
    zones: tuple[_Zone, ...]
    grey: bool


class _Station:
    """Good parts and regions; each part is looked at when first needed."""

    def __init__(self, images: Images, regions: Sequence[RegionSettings]) -> None:
        self.images, self._regions = images, regions
        self.allowed = np.zeros(images.shape[1:3], np.bool_)
        self._areas = []
        for region in regions:
            area = (
                slice(region.top_px, region.top_px + region.height_px),
                slice(region.left_px, region.left_px + region.width_px),
            )
            if not self.allowed[area].size:
                raise ValueError(f"region {region.name} lies outside the part images")
            self.allowed[area] = True
            self._areas.append(area)
        _, labels = cv2.connectedComponents(self.allowed.astype(np.uint8), connectivity=4)
        self._joined = [np.asarray(labels == labels[area].max(), np.bool_) for area in self._areas]
        self._parts: dict[int, _Part] = {}

    def part(self, place: int) -> _Part:
        """The part at this place."""
        if place not in self._parts:
            if len(self._parts) >= PARTS_KEPT:
                del self._parts[next(iter(self._parts))]
            self._parts[place] = self._look(self.images[place])
        return self._parts[place]

    def _look(self, image: Images) -> _Part:
        stands_out = _stands_out(image)
        foreground = np.zeros(stands_out.shape, np.bool_)
        for area in self._areas:
            share = stands_out[area].mean()
            whole = not LEAST_FOREGROUND <= share <= MOST_FOREGROUND
            foreground[area] |= True if whole else stands_out[area]
        has_background = LEAST_FOREGROUND <= stands_out.mean() <= MOST_FOREGROUND
        band = np.ones((2 * SILHOUETTE_PX + 1, 2 * SILHOUETTE_PX + 1), np.uint8)
        inner = cv2.erode(stands_out.astype(np.uint8), band) > 0
        silhouette = stands_out & ~inner & foreground & has_background
        grey = np.asarray(cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0), np.float32)
        slopes = (np.asarray(cv2.Sobel(grey, cv2.CV_32F, *order), np.float32) for order in ((1, 0), (0, 1)))
        slope = distance(*slopes)
        busy = np.asarray(cv2.GaussianBlur(slope, (0, 0), 2.0), np.float32)
        zones = tuple(
            _zone(area, joined, foreground, silhouette) for area, joined in zip(self._areas, self._joined, strict=True)
        )
        is_grey = bool((image == image[..., :1]).all())
        return _Part(image, foreground, stands_out, busy, zones, is_grey)


def _zone(area: tuple[slice, slice], joined: Mask, foreground: Mask, silhouette: Mask) -> _Zone:
    """A region; joined: (H, W) bool, the region with those that touch it, which together show one thing."""
    box = _box(foreground & joined) or (0, 1, 0, 1)
    well_on = cv2.erode(foreground.astype(np.uint8), np.ones((5, 5), np.uint8))[area] > 0
    return _Zone(
        part=_flat(well_on if well_on.any() else foreground[area], area, foreground.shape[1]),
        silhouette=_flat(silhouette[area], area, foreground.shape[1]),
        side=math.sqrt((box[1] - box[0]) * (box[3] - box[2])),
    )


def _flat(where: Mask, area: tuple[slice, slice], width: int) -> NDArray[np.int32]:
    """Flat indices in the whole picture, of this width, of what is marked in an area of it."""
    rows, columns = np.divmod(np.flatnonzero(where), where.shape[1])
    return np.asarray((rows + area[0].start) * width + columns + area[1].start, np.int32)


def _stands_out(image: Images) -> Mask:
    """(H, W) bool: what differs from an even background, taken from the picture's border; all where there is none."""
    height, width = image.shape[:2]
    rim = max(1, round(0.02 * min(height, width)))
    border = np.concatenate(
        [
            image[:rim].reshape(-1, 3),
            image[-rim:].reshape(-1, 3),
            image[:, :rim].reshape(-1, 3),
            image[:, -rim:].reshape(-1, 3),
        ]
    ).astype(np.float32)
    colour = np.median(border, axis=0)
    spread = 1.48 * float(np.median(np.abs(border - colour).max(axis=1)))
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.8), np.float32)
    away = np.abs(smooth - colour.astype(np.float32)).max(axis=2)
    limit = max(BACKGROUND_LEVELS, BACKGROUND_GRAINS * spread)
    if (np.abs(border - colour).max(axis=1) < limit).mean() < EVEN_BORDER:
        return np.ones((height, width), np.bool_)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    found = cv2.morphologyEx((away > limit).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, kernel)
    found = _without_specks(found, round(0.01 * found.size))
    holes = _without_specks(1 - found, max(4, round(0.02 * int(found.sum()))))
    return np.asarray(holes == 0, np.bool_)


def _without_specks(found: cv2.typing.MatLike, least: int) -> NDArray[np.uint8]:
    """Only the connected pieces of at least so many pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(found, connectivity=4)
    keep = statistics[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False
    return np.asarray(keep[labels], np.uint8)


# ---- making one ----


@dataclass(frozen=True, slots=True)
class _Scene:
    """The window in which a defect is drawn.

    before: (h, w, 3) float32 of the good part; foreground: (h, w) float32 of 0..1; stands_out: (h, w) bool;
    y, x: (h, w) px from the middle; size: px; edge: whether the middle is on the silhouette;
    contrast: levels; strength: grows from 1 with each attempt.
    """

    station: _Station
    part: _Part
    before: Floats
    foreground: Floats
    stands_out: Mask
    y: Floats
    x: Floats
    size: float
    grain: float
    contrast: float
    strength: float
    edge: bool


def _make(station: _Station, source: int, kind: str, size: str, rng: np.random.Generator) -> MadeDefect:
    """One visible defect; a stain where this kind cannot be seen on this part; the most visible one where none can."""
    tried: list[tuple[float, MadeDefect]] = []
    for attempt in range(2 * ATTEMPTS):
        fell_back, grown = divmod(attempt, ATTEMPTS)
        attempted = FALLBACK if fell_back else kind
        made, px = _attempt(station, source, (attempted, size), STRONGER**grown, rng)
        seen = visibility(station.images[source], made) if _extent(made.mask) >= LEAST_EXTENT * px else 0.0
        if seen >= 1:
            return made
        tried.append((seen, made))
    return max(tried, key=lambda one: one[0])[1]


def _attempt(
    station: _Station, source: int, wanted: tuple[str, str], strength: float, rng: np.random.Generator
) -> tuple[MadeDefect, float]:
    """Draw one defect somewhere, visible or not; and the size in px that it should have."""
    kind, size = wanted
    part = station.part(source)
    zone = part.zones[int(rng.integers(len(part.zones)))]
    px = max(float(rng.uniform(*SIZES[size])) * zone.side, LEAST_SIZE_PX[size])
    row, column, edge = _place(part, zone, kind, rng, size=px, tries=round(PLACES * strength**2))
    window = _window(row, column, px, part.foreground.shape)
    scene = _scene(station, part, window, (row, column, px), rng)
    scene = replace(scene, contrast=_contrast(scene, size, strength, rng), strength=strength, edge=edge)
    after, amount = _DRAWERS[kind](scene, rng)
    allowed = station.allowed[window].astype(np.float32)
    if kind not in OFF_THE_PART:
        allowed = allowed * scene.foreground
    image, mask = part.image.copy(), np.zeros(part.foreground.shape, np.bool_)
    image[window], mask[window] = _composed(scene, after, amount * allowed, station.allowed[window])
    return MadeDefect(image=image, mask=mask, kind=kind, size=size, source=source), px


def _box(mask: Mask) -> tuple[int, int, int, int] | None:
    """First and past-the-last row, then column, of what the mask covers; None where that is nothing."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _extent(mask: Mask) -> float:
    """Longer side, in px, of what the mask covers; 0 where that is fewer than LEAST_MASK_PX."""
    box = _box(mask)
    return 0.0 if box is None or mask.sum() < LEAST_MASK_PX else float(max(box[1] - box[0], box[3] - box[2]))


def _composed(scene: _Scene, after: Floats, amount: Floats, allowed: Mask) -> tuple[Images, Mask]:
    """The window with the defect blended in, and its mask; nothing changes beyond FADE_PX of the mask."""
    mixed = scene.before + (after - scene.before) * amount[..., None]
    if scene.part.grey:
        mixed = np.repeat(mixed.mean(axis=2, keepdims=True), 3, axis=2)
    mixed = np.clip(np.rint(mixed), 0, 255)
    change = np.abs(mixed - scene.before).max(axis=2)
    limit = max(MASK_LEVELS, MASK_SHARE * float(change.max()))
    changed = ((change > limit) & allowed).astype(np.uint8)
    reach = 1 + round(scene.size * CLOSED_SHARE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    padded = np.pad(changed, reach)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)[reach:-reach, reach:-reach]
    mask = (closed > 0) & allowed & (amount > 0)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * FADE_PX + 1, 2 * FADE_PX + 1), np.uint8)) > 0
    mixed = np.where((near & allowed)[..., None], mixed, scene.before)
    return mixed.astype(np.uint8), np.asarray(mask, np.bool_)


def _place(
    part: _Part, zone: _Zone, kind: str, rng: np.random.Generator, *, size: float, tries: int
) -> tuple[float, float, bool]:
    """Row and column of the middle, and whether it is on the silhouette.

    What is missing breaks off the silhouette where there is one, half of what is bent lies there; what shows on
    structure alone takes the busiest place of so many; all keep away from the picture's border, if one of them can.
    """
    edge = kind == "missing" or (kind == "bend" and rng.random() < 0.5)
    edge = edge and len(zone.silhouette) >= LEAST_SILHOUETTE_PX
    among = zone.silhouette if edge else zone.part
    chosen = among[rng.integers(len(among), size=tries)]
    places = np.stack(np.divmod(chosen, part.foreground.shape[1]), axis=1)
    room = np.minimum(places, np.array(part.foreground.shape) - 1 - places).min(axis=1) >= size / 2
    worth = room.astype(np.float64)
    if kind in ON_STRUCTURE:
        worth += part.busy[places[:, 0], places[:, 1]] / (1.0 + float(part.busy.max()))
    row, column = places[int(np.argmax(worth))]
    return float(row), float(column), edge


def _window(row: float, column: float, size: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    reach = REACH * size + MARGIN_PX
    rows = slice(max(0, math.floor(row - reach)), min(shape[0], math.ceil(row + reach) + 1))
    return rows, slice(max(0, math.floor(column - reach)), min(shape[1], math.ceil(column + reach) + 1))


def _scene(
    station: _Station,
    part: _Part,
    window: tuple[slice, slice],
    at: tuple[float, float, float],
    rng: np.random.Generator,
) -> _Scene:
    row, column, size = at
    before = part.image[window].astype(np.float32)
    foreground = part.foreground[window]
    y, x = np.mgrid[window].astype(np.float32)
    grain = _grain(before, size, foreground)
    soft = np.asarray(cv2.GaussianBlur(foreground.astype(np.float32), (0, 0), 0.7), np.float32)
    y, x = y - np.float32(row), x - np.float32(column)
    return _Scene(station, part, before, soft, part.stands_out[window], y, x, size, grain, 0.0, 1.0, False)


def _grain(before: Floats, size: float, where: Mask) -> float:
    """Robust deviation, in levels, of what is finer than this size: where asked, or everywhere if that is little."""
    grey = np.asarray(cv2.cvtColor(before, cv2.COLOR_RGB2GRAY), np.float32)
    rest = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), max(2.0, size / 3)))
    chosen = rest[where] if where.sum() >= 32 else rest
    return max(LEAST_GRAIN, 1.48 * float(np.median(chosen)))


def _needed(kind: str, size: str, grain: float) -> float:
    """Least visible root-mean-square change, in levels."""
    return max(VISIBLE_LEVELS[size], LENIENT_GRAINS.get(kind, VISIBLE_GRAINS)[size] * grain)


def _contrast(scene: _Scene, size: str, strength: float, rng: np.random.Generator) -> float:
    """Peak contrast in levels, moderate to plain: FAINTEST to STRONGEST times what is just visible, at most MOST."""
    times = math.exp(rng.uniform(math.log(FAINTEST), math.log(STRONGEST)))
    return min(times * strength, MOST) * _needed("", size, scene.grain)


# ---- shapes ----


def _smooth(ramp: NDArray[np.floating]) -> Floats:
    """0..1 -> 0..1, flat at both ends."""
    ramp = np.clip(ramp, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _blob(scene: _Scene, rng: np.random.Generator, fade: tuple[float, float] = (0.8, 1.6)) -> Floats:
    """(h, w) of 0..1: an irregular, more or less long patch whose longest extent is the scene's size."""
    radius = np.ones_like(AROUND)
    for order in range(2, 7):
        wave = np.cos(order * AROUND + rng.uniform(0, 2 * math.pi))
        radius += rng.uniform(0.1, 0.5) / order * rng.standard_normal() * wave
    radius = np.maximum(radius, 0.4)
    radius *= scene.size / 2 / radius.max()
    along, across = _turned(scene, rng.uniform(0, math.pi))
    across = across / np.float32(rng.uniform(0.5, 1.0))
    reach = np.interp(np.arctan2(across, along), AROUND, radius, period=2 * math.pi)
    extent = np.clip((reach - np.hypot(along, across)) / rng.uniform(*fade) + 0.5, 0, 1)
    return np.asarray(extent / max(0.25, float(extent.max())), np.float32)


def _rectangle(scene: _Scene, rng: np.random.Generator) -> Floats:
    """(h, w) of 0..1: a turned rectangle."""
    along, across = _turned(scene, rng.uniform(0, math.pi))
    length = scene.size * rng.uniform(0.8, 1.0) / 2
    width = length * rng.uniform(0.25, 0.9)
    inside = np.minimum(length - np.abs(along), width - np.abs(across))
    return np.asarray(np.clip(inside / rng.uniform(0.8, 1.6) + 0.5, 0, 1), np.float32)


def _turned(scene: _Scene, angle: float) -> tuple[Floats, Floats]:
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return scene.x * cosine + scene.y * sine, scene.y * cosine - scene.x * sine


def _bump(scene: _Scene, radius: float) -> Floats:
    """(h, w): 1 in the middle, falling smoothly to 0 at this radius."""
    return _smooth(1 - np.hypot(scene.x, scene.y) / np.float32(radius))


def _fractal(shape: tuple[int, ...], coarsest_px: float, rng: np.random.Generator) -> Floats:
    """(h, w) of fractal noise, mean about 0 and deviation about 1."""
    total, px, weight = np.zeros(shape, np.float32), max(2.0, coarsest_px), 1.0
    for _ in range(4):
        cells = [max(2, round(side / px) + 1) for side in shape]
        grid = rng.standard_normal(cells).astype(np.float32)
        total += np.float32(weight) * np.asarray(
            cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32
        )
        px, weight = px / 2, weight * 0.6
        if px < 1:
            break
    return np.asarray((total - total.mean()) / max(float(total.std()), 1e-3), np.float32)


def _curve(scene: _Scene, rng: np.random.Generator, wander: float) -> NDArray[np.float64]:
    """(N, 2) x and y of a curve through the middle, LINE_LENGTH sizes long; wander: bend of it, in radians."""
    steps = max(8, round(LINE_LENGTH * scene.size / 2))
    turns = rng.standard_normal(5) * wander
    angle = rng.uniform(0, 2 * math.pi) + np.interp(np.linspace(0, 4, steps), np.arange(5), np.cumsum(turns))
    step = LINE_LENGTH * scene.size * rng.uniform(0.7, 1.0) / steps
    points = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], axis=1) * step, axis=0)
    return np.asarray(points - points[steps // 2], np.float64)


def _stroke(scene: _Scene, points: NDArray[np.float64], widths: NDArray[np.float64]) -> Floats:
    """(h, w) of 0..1: how much of each pixel a line of varying width (px) covers."""
    height, width = scene.x.shape
    canvas = np.zeros((height * FINE, width * FINE), np.uint8)
    shifted = (points - (scene.x[0, 0], scene.y[0, 0]) + 0.5) * FINE
    at = np.rint(shifted * 8).astype(int)
    for start, end, thick in zip(at[:-1].tolist(), at[1:].tolist(), widths[:-1].tolist(), strict=True):
        cv2.line(canvas, start, end, 255, max(1, round(thick * FINE)), cv2.LINE_AA, 3)
    covered = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(covered, np.float32) / np.float32(255)


def _widths(points: NDArray[np.float64], thickest: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Of a line, in px: it swells, and thins towards both ends."""
    along = np.linspace(0, 1, len(points))
    swell = 1 + 0.35 * np.sin(2 * math.pi * (rng.uniform(0.5, 2) * along + rng.uniform()))
    return np.asarray(
        np.maximum(0.5, thickest * swell * np.minimum(1, 0.3 + 3 * np.minimum(along, 1 - along))), np.float64
    )


def _level(scene: _Scene) -> float:
    """Mean level of the part in the window, BLACK at least."""
    shown = scene.foreground > 0.5
    return max(float(BLACK), float(scene.before[shown].mean() if shown.any() else scene.before.mean()))


def _sign(scene: _Scene, rng: np.random.Generator) -> float:
    """Brighter or darker, whichever has room; where both have, by chance."""
    level = _level(scene)
    if level - scene.contrast < BLACK:
        return 1.0
    brighter = BRIGHTER_SHARE if level < DARK else 0.5
    return 1.0 if level + scene.contrast <= 255 and rng.random() < brighter else -1.0


def _tint(scene: _Scene, rng: np.random.Generator, spread: float) -> Floats:
    """(3,) factors of a contrast by channel; all 1 on grey parts."""
    if scene.part.grey:
        return np.ones(3, np.float32)
    return np.asarray(np.clip(1 + spread * rng.standard_normal(3), 0.1, 2.0), np.float32)


# ---- kinds ----


def _cut_paste(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """A piece from elsewhere on this or another part, turned and mirrored, with a soft edge."""
    images = scene.station.images
    donor = scene.station.part(int(rng.integers(len(images)))) if rng.random() < 0.6 else scene.part
    zone = donor.zones[int(rng.integers(len(donor.zones)))]
    row, column = divmod(int(zone.part[int(rng.integers(len(zone.part)))]), donor.foreground.shape[1])
    turn, scale = rng.uniform(0, 2 * math.pi), rng.uniform(0.75, 1.3)
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    mirror = rng.choice((-1.0, 1.0))
    x, y = scene.x * np.float32(mirror), scene.y
    at_x = (column + cosine * x - sine * y).astype(np.float32)
    at_y = (row + sine * x + cosine * y).astype(np.float32)
    pasted = np.asarray(cv2.remap(donor.image, at_x, at_y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101), np.float32)
    if scene.strength > 2:  # what resembles its new place everywhere is toned, as CutPaste does
        pasted = pasted + np.float32(_sign(scene, rng) * scene.contrast) * _tint(scene, rng, 0.2)
    return pasted, _rectangle(scene, rng) if rng.random() < 0.4 else _blob(scene, rng)


def _texture(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """A foreign texture: out of a packaged photograph, or fractal noise; whole, or on the surface's own tone."""
    texture = _photographed(scene, rng) if rng.random() < 0.6 else _noisy(scene, rng)
    if rng.random() < 0.5:
        around = scene.before.mean(axis=(0, 1))
        deviation = max(float(texture.std()), 4.0)
        toned = around + (texture - texture.mean(axis=(0, 1))) / deviation * max(scene.contrast * 1.2, 12.0)
        texture = np.asarray(toned, np.float32)
    share = np.float32(min(1.0, rng.uniform(0.55, 1.0) * scene.strength))
    return np.asarray(np.clip(texture, 0, 255), np.float32), _blob(scene, rng) * share


def _photographed(scene: _Scene, rng: np.random.Generator) -> Floats:
    picture = _photographs()[int(rng.integers(2))]
    turn, scale = rng.uniform(0, 2 * math.pi), rng.uniform(0.6, 1.6)
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    row, column = rng.uniform(0, picture.shape[0]), rng.uniform(0, picture.shape[1])
    at_x = (column + cosine * scene.x - sine * scene.y).astype(np.float32)
    at_y = (row + sine * scene.x + cosine * scene.y).astype(np.float32)
    return np.asarray(cv2.remap(picture, at_x, at_y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101), np.float32)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Images, ...]:
    """(427, 640, 3) uint8 each: what scikit-learn packages."""
    from sklearn.datasets import load_sample_image

    return tuple(np.array(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))


def _noisy(scene: _Scene, rng: np.random.Generator) -> Floats:
    noise = _fractal(scene.x.shape, scene.size * rng.uniform(0.15, 0.6), rng)
    if rng.random() < 0.3:  # ridges
        noise = np.asarray(np.abs(noise) * 2 - 1.5, np.float32)
    colour = scene.before.mean(axis=(0, 1)) + rng.uniform(-1, 1) * scene.contrast
    return np.asarray(colour + noise[..., None] * _tint(scene, rng, 0.4) * scene.contrast, np.float32)


def _scratch(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """A thin, slightly curved line of varying width and depth; some have a rim of the other sign, some a twin."""
    thickest = rng.uniform(0.8, 1.3) * max(1.0, min(2.0, 0.045 * scene.size))
    points = _curve(scene, rng, rng.uniform(0.02, 0.35))
    line = _stroke(scene, points, _widths(points, thickest, rng))
    if rng.random() < 0.2:
        beside = points + rng.uniform(-1, 1, 2) * max(2.5, 0.12 * scene.size)
        line = np.maximum(line, _stroke(scene, beside, _widths(points, 0.8 * thickest, rng)))
    depth = np.clip(0.85 + 0.2 * _fractal(line.shape, scene.size / 2, rng), 0.35, 1.2)
    contrast = _sign(scene, rng) * 1.6 * scene.contrast * _tint(scene, rng, 0.08)
    change = (line * depth)[..., None] * contrast
    if rng.random() < 0.4:
        rim = _stroke(scene, points + np.array([1.2, 0.8]) * thickest, _widths(points, thickest, rng)) * (1 - line)
        change -= rim[..., None] * contrast * 0.4
        line = np.maximum(line, rim)
    return np.asarray(scene.before + change, np.float32), np.asarray(line > 0, np.float32)


def _stain(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """An irregular film: darker or brighter, tinted, cloudy inside, some with a dried rim."""
    blob = _blob(scene, rng, fade=(1.2, max(1.5, 0.3 * scene.size)))
    cloud = np.clip(0.8 + 0.2 * _fractal(blob.shape, scene.size / 2, rng), 0.3, 1.2)
    if rng.random() < 0.35:
        cloud = cloud * np.float32(0.55) + _smooth(1 - np.abs(blob - 0.5) * 2) * np.float32(0.8)
    contrast = _sign(scene, rng) * 1.25 * scene.contrast * _tint(scene, rng, 0.25)
    return np.asarray(scene.before + cloud[..., None] * contrast, np.float32), blob


def _missing(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """A piece broken off the silhouette, background in its place; on parts that fill the picture a hole or a tear."""
    return _broken_off(scene, rng) if scene.edge else _hole(scene, rng)


def _broken_off(scene: _Scene, rng: np.random.Generator) -> Drawn:
    blob = _blob(scene, rng, fade=(0.7, 1.2))
    if rng.random() < 0.4:  # a straight break
        along, _ = _turned(scene, rng.uniform(0, 2 * math.pi))
        disc = np.clip(0.62 * scene.size - np.hypot(scene.x, scene.y) + 0.5, 0, 1)
        blob = np.asarray(disc * np.clip(along + 0.25 * scene.size, 0, 1), np.float32)
    background = cv2.dilate(scene.stands_out.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    if background.sum() < 8:
        background = ~scene.stands_out
    weight = background.astype(np.float32)
    wide = max(2.0, 0.5 * scene.size)
    near = np.asarray(cv2.GaussianBlur(weight, (0, 0), wide), np.float32)[..., None]
    level = np.asarray(cv2.GaussianBlur(scene.before * weight[..., None], (0, 0), wide), np.float32)
    known = scene.before[background]
    filled = np.where(near > 1e-3, level / np.maximum(near, 1e-3), np.median(known, axis=0))
    grain = known[rng.integers(len(known), size=scene.x.shape)] - np.median(known, axis=0)
    grain = np.clip(grain, -3 * LEAST_GRAIN, 3 * LEAST_GRAIN)
    return np.asarray(filled + grain, np.float32), blob


def _hole(scene: _Scene, rng: np.random.Generator) -> Drawn:
    blob = _blob(scene, rng, fade=(0.8, 1.4))
    if rng.random() < 0.4:  # a tear
        points = _curve(scene, rng, 0.3) / LINE_LENGTH
        along = np.linspace(-1, 1, len(points))
        wide = max(1.5, rng.uniform(0.12, 0.3) * scene.size) * (1 - along**2) + 0.6
        blob = _stroke(scene, points, wide)
    around = scene.before.mean(axis=(0, 1))
    contrast = max(1.3 * scene.contrast, 0.5 * float(around.mean()))
    sign = -1.0 if around.mean() > BLACK + scene.contrast else 1.0
    inside = np.clip(around + sign * contrast * (0.8 + 0.2 * around / max(1.0, float(around.mean()))), 4, 250)
    filled = inside + 0.3 * scene.grain * rng.standard_normal((*blob.shape, 1))
    lifted = np.roll(blob, (1, 1), (0, 1)) * (1 - blob)  # the lit edge of what was torn
    filled = filled + lifted[..., None] * 0.8 * contrast
    return np.asarray(filled, np.float32), blob


def _bend(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """A piece of the part pushed aside, twisted or swollen, with the light of a dent."""
    radius = np.float32(0.75 * scene.size + 1)
    bump = _bump(scene, float(radius))
    angle, way = rng.uniform(0, 2 * math.pi), rng.random()
    push = np.float32(min(0.5 * scene.strength, 0.9) * radius * rng.uniform(0.6, 1.0))
    if way < 0.6:
        dx, dy = bump * push * np.float32(math.cos(angle)), bump * push * np.float32(math.sin(angle))
    elif way < 0.8:
        twist = bump * np.float32(min(2.5, rng.uniform(0.7, 1.4) * scene.strength) * rng.choice((-1.0, 1.0)))
        dx = scene.x * (np.cos(twist) - 1) - scene.y * np.sin(twist)
        dy = scene.x * np.sin(twist) + scene.y * (np.cos(twist) - 1)
    else:
        swell = bump * np.float32(min(0.8, 0.5 * scene.strength) * rng.choice((-1.0, 1.0)))
        dx, dy = scene.x * swell, scene.y * swell
    at_x = (scene.x - scene.x[0, 0] + dx).astype(np.float32)
    at_y = (scene.y - scene.y[0, 0] + dy).astype(np.float32)
    bent = np.asarray(cv2.remap(scene.before, at_x, at_y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101), np.float32)
    slope = bump * (scene.x * np.float32(math.cos(angle)) + scene.y * np.float32(math.sin(angle))) / radius
    shade = slope * np.float32(2.5 * rng.uniform(0.2, 0.5) * min(6.0, scene.strength) * scene.contrast / _level(scene))
    shade = np.clip(shade, -0.6, 1.0) * scene.foreground
    return np.asarray(bent * (1 + shade[..., None]), np.float32), np.asarray(bump > 0, np.float32)


def _blur(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """Out of focus, or smeared in one direction."""
    wide = max(1.2, rng.uniform(0.12, 0.25) * scene.size) * min(2.0, scene.strength)
    if rng.random() < 0.5:
        after = cv2.GaussianBlur(scene.before, (0, 0), wide)
    else:
        side = 2 * math.ceil(1.5 * wide) + 1
        kernel, middle = np.zeros((side, side), np.float32), side // 2
        angle = rng.uniform(0, math.pi)
        reach_x, reach_y = middle * math.cos(angle), middle * math.sin(angle)
        low, high = (
            (round(middle - reach_x), round(middle - reach_y)),
            (round(middle + reach_x), round(middle + reach_y)),
        )
        cv2.line(kernel, low, high, 1.0, 1)
        after = cv2.filter2D(scene.before, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(after, np.float32), _blob(scene, rng, fade=(1.0, max(1.2, 0.2 * scene.size)))


def _contamination(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """Dirt on the part: a fibre or hair, or a few specks."""
    if rng.random() < 0.5:
        points = _curve(scene, rng, rng.uniform(0.4, 1.0)) * 0.8
        covered = _stroke(scene, points, np.full(len(points), rng.uniform(0.8, 1.2) * max(1.0, 0.04 * scene.size)))
    else:
        covered, ragged = np.zeros_like(scene.x), _fractal(scene.x.shape, 0.2 * scene.size, rng)
        for _ in range(int(rng.integers(2, 7))):
            x, y = rng.normal(0, 0.22 * scene.size, 2)
            radius = max(0.8, scene.size * rng.uniform(0.06, 0.16))
            squeezed = np.hypot(scene.x - np.float32(x), (scene.y - np.float32(y)) * np.float32(rng.uniform(0.8, 1.6)))
            squeezed = squeezed + ragged * np.float32(0.3 * radius)
            covered = np.maximum(covered, np.clip(radius - squeezed + 0.5, 0, 1))
    contrast = np.float32(_sign(scene, rng) * 1.6 * scene.contrast)
    dirt = np.median(scene.before, axis=(0, 1)) + contrast * _tint(scene, rng, 0.3)
    after = scene.before * np.float32(0.15) + dirt * np.float32(0.85)
    return np.asarray(after, np.float32), np.asarray(covered, np.float32)


def _light(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """A glare or a dull place: the light changes smoothly, the surface below stays what it is."""
    along, across = _turned(scene, rng.uniform(0, math.pi))
    across = across / np.float32(rng.uniform(0.5, 1.0))
    away = np.hypot(along, across) / np.float32(0.75 * scene.size + 1)
    bump = _smooth((1 - away) * np.float32(rng.uniform(1.1, 1.9)))
    gain = np.clip(_sign(scene, rng) * 1.2 * scene.contrast / _level(scene), -0.5, 3.0)
    return np.asarray(scene.before * (1 + np.float32(gain)), np.float32), bump


def _finish(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """Another finish: the surface's grain, up to a random coarseness, is stronger or weaker everywhere."""
    coarsest = rng.uniform(1.0, 4.0)
    grain = scene.before - np.asarray(cv2.GaussianBlur(scene.before, (0, 0), coarsest), np.float32)
    spread = max(LEAST_GRAIN, float(grain[scene.foreground > 0.5].std()) if (scene.foreground > 0.5).any() else 0.0)
    share = 0.6 * scene.contrast / spread
    if rng.random() < 0.5:  # duller: no more than all of the grain can go
        return np.asarray(scene.before - min(share, 0.95) * grain, np.float32), np.ones_like(scene.x)
    return np.asarray(scene.before + share * grain, np.float32), np.ones_like(scene.x)


def _clouds(scene: _Scene, rng: np.random.Generator) -> Drawn:
    """An uneven tone over the whole surface, as of a film, of uneven heat or of uneven pressure."""
    clouds = _fractal(scene.x.shape, scene.size * rng.uniform(0.1, 0.4), rng)
    gain = np.clip(1 + clouds[..., None] * _tint(scene, rng, 0.1) * 0.6 * scene.contrast / _level(scene), 0.3, 3.0)
    return np.asarray(scene.before * gain, np.float32), np.ones_like(scene.x)


_DRAWERS: Final[dict[str, Callable[[_Scene, np.random.Generator], Drawn]]] = {
    "cut_paste": _cut_paste,
    "texture": _texture,
    "scratch": _scratch,
    "stain": _stain,
    "missing": _missing,
    "bend": _bend,
    "blur": _blur,
    "contamination": _contamination,
    "light": _light,
    "finish": _finish,
    "clouds": _clouds,
}
KINDS: Final[tuple[str, ...]] = tuple(_DRAWERS)
_LOCAL: Final = tuple(kind for kind in KINDS if kind not in WHOLE)
_OF_SIZE: Final = MappingProxyType(dict.fromkeys(SIZES, _LOCAL) | {"extended": EXTENDED, "whole": WHOLE})
WANTED: Final = tuple((kind, size) for size in SIZES for kind in _OF_SIZE[size])
"""The round of kinds and sizes."""
