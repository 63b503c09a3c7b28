"""Good frames -> what the part looks like, how it lies, and from which likeness on something is this part.

Learnt without any label or pose: foreground by the frames' border, a first template from one good part, better ones
from all parts aligned to the last. Nothing is drawn by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import DataError
from engines.alignment import Aligner, Alignment, Misaligned, PartTemplate
from engines.alignment.foreground import Ground, blobs_of, distance, foreground, ring_of
from engines.alignment.template import GRID_PX

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

MOST_FRAMES = 120
READ_SIDE_PX = 256
GROUND_SIDE_PX = 64
LEAST_DIAMETER_PX = 80
RADIUS_PX = 43.0
LEAST_LEVEL = 6.0
NOISE_FACTOR = 5.0
LEVEL_SHARE = 0.4
LEAST_FIT_SHARE = 0.8
SMALLEST_SHARE, LARGEST_SHARE = 0.004, 0.8
LEAST_CONNECTED = 0.6
MOST_RING = 0.3
MOST_AREA_SPREAD = 0.35
LEAST_LIKENESS = 0.5
SYMMETRIES = (8, 6, 5, 4, 3, 2)
ROUND_TURNS_DEG = (37.0, 75.0, 101.0, 163.0, 205.0)
CHANCE_MARGIN = 0.4
ONE_SIZE_SPREAD = 0.012
ONE_POSE_DEG = 40.0
STILL_DEG = 1.0
MOVES_SHARE = 0.004
HALVED_PARTS = 24
HALF_SCORE_SHARE = 0.9
FAR_BELOW = 10.0
SURE_FACTOR = 3.0
SURE_SHARE = 0.06
Load = Callable[[], Images]


class NoPartSeen(DataError):
    """Good frames show no one part that stands out from a background: `locate` cannot be learnt from them."""


@dataclass(frozen=True, slots=True)
class LearntPart:
    """The template, and how often frames had to be left out. words: what was seen, one line each, for people."""

    template: PartTemplate
    frames: int
    left_out: int

    @property
    def words(self) -> tuple[str, ...]:
        """What was seen of background, place, turn and scale."""
        template = self.template
        wide = math.hypot(*template.shift_px)
        moves = wide > MOVES_SHARE * template.diameter_px
        sizes = f"{template.least_scale:.2f} to {template.largest_scale:.2f}"
        return (
            f"the part stands out from its background; across its middle it is up to {template.diameter_px:.0f} px",
            f"it moves in the frame, by {wide:.1f} px (standard deviation)" if moves else "it does not move",
            _turns_in_words(template),
            f"its scale varies from {sizes}" if template.largest_scale > template.least_scale else "its scale is fixed",
        )


@dataclass(frozen=True, slots=True)
class _Scene:
    """Background, its level, and for each frame whether it shows one area apart from it."""

    ground: Floats
    level: float
    fit: NDArray[np.bool_]
    areas: NDArray[np.float64]
    radii: NDArray[np.float64]
    why: str


def learn_part_template(frames: Sequence[Load]) -> LearntPart:
    """Learn from (H, W, 3) uint8 RGB frames of good parts, of equal size; each is read once or twice.

    Of more than MOST_FRAMES frames, so many are used, evenly spread. Raises NoPartSeen where they show no separable
    part, and what `frames` raise.
    """
    count = min(len(frames), MOST_FRAMES)
    chosen = [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    small, factor, scene = _read(chosen)
    kept = [image for image, fit in zip(small, scene.fit, strict=True) if fit]
    template = _first(kept, scene)
    for _ in range(2):
        template = _again(template, kept)
    template = _settled(template, kept)
    template = _again(template, kept)
    template = _judging(template, kept)
    return LearntPart(_in_full_frames(template, factor), count, count - len(kept))


def _turns_in_words(template: PartTemplate) -> str:
    if template.symmetry == 0:
        return "it is round: no turn can be told, and none is corrected"
    same = f"; a turn by {360 / template.symmetry:g} degrees looks the same" if template.symmetry > 1 else ""
    if template.turn_deg >= 180 / max(1, template.symmetry):
        return f"it lies turned by any angle{same}"
    if template.turn_deg > 1.5 * STILL_DEG + _TURN_SLACK_DEG:
        return f"it turns a little; up to {template.turn_deg:.0f} degrees to either side are corrected{same}"
    return f"it does not turn{same}"


_TURN_SLACK_DEG = 3.0


def _read(frames: Sequence[Load]) -> tuple[list[Images], int, _Scene]:
    """The frames as small as the part allows, by which factor, and their scene. Raises NoPartSeen."""
    first = frames[0]()
    factor = max(1, max(first.shape[:2]) // READ_SIDE_PX)
    small = [_shrunk(load(), factor) for load in frames]
    scene = _scene_of(small)
    diameter = 2 * float(np.median(scene.radii[scene.fit])) * factor
    finer = max(1, int(diameter // LEAST_DIAMETER_PX))
    if finer < factor:
        factor = finer
        small = [_shrunk(load(), factor) for load in frames]
        scene = _scene_of(small)
    return small, factor, scene


def _scene_of(small: Sequence[Images]) -> _Scene:
    """Background, foreground and its areas; raises NoPartSeen, which says what was seen instead."""
    shape = small[0].shape
    unlike = sum(image.shape != shape for image in small)
    if unlike:
        raise NoPartSeen(f"{unlike} of {len(small)} frames are of another size than the first one")
    factor = max(1, max(shape[:2]) // GROUND_SIDE_PX)
    coarse = [_shrunk(image, factor) for image in small]
    ground = np.median([np.median(ring_of(image), axis=0) for image in coarse], axis=0)
    ground = np.broadcast_to(ground.astype(np.float32), coarse[0].shape)
    for _ in range(3):
        lit = Ground(ground)
        apart = np.stack([image - ground - lit.light(image) for image in coarse]).astype(np.float32)
        level = _level(apart)
        ground = ground + _smooth(apart, level)
    lit = Ground(np.ascontiguousarray(ground, np.float32))
    apart = np.stack([image - ground - lit.light(image) for image in coarse]).astype(np.float32)
    level = _level(apart)
    return _measured(np.ascontiguousarray(ground, np.float32), level, apart, factor)


def _level(apart: Floats) -> float:
    """Between the background's noise and the faintest quarter of what stands out from it."""
    distances = np.stack([distance(each) for each in apart])
    rings = np.concatenate([ring_of(each[..., None]).ravel() for each in distances])
    floor = max(LEAST_LEVEL, NOISE_FACTOR * float(np.median(rings)))
    standing = distances[distances > floor]
    return max(floor, LEVEL_SHARE * float(np.quantile(standing, 0.25))) if standing.size else floor


def _smooth(apart: Floats, level: float) -> Floats:
    """(h, w, 3) float32: the background's own shape over the frame, as a polynomial of second degree."""
    height, width = apart.shape[1:3]
    standing = np.stack([cv2.dilate(foreground(each, level), np.ones((3, 3), np.uint8)) for each in apart]) > 0
    hidden = np.where(standing[..., None], np.nan, apart)
    seen = (~standing).mean(axis=0) >= 0.25
    if seen.mean() < 0.1:
        return np.zeros(apart.shape[1:], np.float32)
    median = np.nanmedian(hidden[:, seen], axis=0)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = 2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    weights = np.linalg.lstsq(basis[seen], median, rcond=None)[0]
    return np.asarray(basis @ weights, np.float32)


def _measured(ground: Floats, level: float, apart: Floats, factor: int) -> _Scene:
    fit, areas, radii, faults = [], [], [], []
    for each in apart:
        mask = foreground(each, level)
        blobs = blobs_of(mask)
        share = float(blobs.areas[0]) / mask.size if blobs.areas.size else 0.0
        connected = float(blobs.areas[0] / blobs.areas.sum()) if blobs.areas.size else 0.0
        fault = _fault_of(share, connected, float(ring_of(mask[..., None]).mean()))
        faults.append(fault)
        fit.append(not fault)
        areas.append(share * mask.size * factor**2)
        radii.append(factor * _radius(mask, blobs.centres[0]) if blobs.areas.size else 0.0)
    fits = np.array(fit)
    if fits.mean() < LEAST_FIT_SHARE:
        common = max(sorted(set(faults) - {""}), key=faults.count)
        raise NoPartSeen(f"in {len(fits) - int(fits.sum())} of {len(fits)} frames {common}")
    kept = np.array(areas)[fits]
    low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75))
    if (high - low) / middle > MOST_AREA_SPREAD:
        raise NoPartSeen("what stands out from the background is of another size in each frame")
    usual = np.abs(np.array(areas) / middle - 1) < 0.6
    return _Scene(ground, level, fits & usual, np.array(areas), np.array(radii), "")


def _fault_of(share: float, connected: float, ring: float) -> str:
    """What speaks against one part before a background, in words, or nothing."""
    if share < SMALLEST_SHARE:
        return "nothing of a part's size stands out from the background"
    if ring > MOST_RING:
        return "the border is no even background: the picture goes on beyond the frame"
    if share > LARGEST_SHARE:
        return "the part fills the frame, and no background is left"
    if connected < LEAST_CONNECTED:
        return "many areas stand out, not one"
    return ""


def _radius(mask: NDArray[np.uint8], centre: NDArray[np.float64]) -> float:
    """Of the circle around a blob's centre that holds it."""
    labels = cv2.connectedComponentsWithStats(mask, connectivity=8)
    largest = 1 + int(labels[2][1:, cv2.CC_STAT_AREA].argmax())
    rows, columns = np.nonzero(labels[1] == largest)
    return float(np.hypot(columns - centre[0], rows - centre[1]).max()) + 0.7


def _first(frames: Sequence[Images], scene: _Scene) -> PartTemplate:
    """From the frame whose foreground is the most usual one, any turn and some change of scale allowed."""
    areas, radii = scene.areas[scene.fit], scene.radii[scene.fit]
    radius = float(np.median(radii))
    order = np.argsort(np.abs(areas / np.median(areas) - 1) + np.abs(radii / radius - 1), kind="stable")
    blank = np.zeros((GRID_PX, GRID_PX), np.bool_)
    y, x = np.mgrid[:GRID_PX, :GRID_PX] - (GRID_PX - 1) / 2
    disc = np.hypot(x, y) <= RADIUS_PX
    provisional = PartTemplate(
        image=np.zeros((GRID_PX, GRID_PX, 3), np.float32),
        mask=disc,
        ground=scene.ground,
        level=scene.level,
        frame_px=float(radii[order[0]]) / RADIUS_PX,
        symmetry=1,
        turn_deg=180.0,
        least_scale=0.5,
        largest_scale=2.0,
        shift_px=(0.0, 0.0),
        residual=1e3,
        usual_score=1.0,
        sure_score=-1.0,
        least_score=-2.0,
        outside=1.0,
    )
    del blank
    aligner = Aligner(provisional)
    for index in order:
        found = _by_foreground(frames[index], provisional, scene)
        if not found.touching:
            break
    image = aligner.seen(frames[index], found)
    return replace(
        _centred(replace(provisional, image=image, mask=_largest(distance(image) > scene.level))),
        least_scale=0.8,
        largest_scale=1.25,
    )


def _by_foreground(frame: Images, template: PartTemplate, scene: _Scene) -> Alignment:
    """The middle of the largest area, unturned."""
    lit = Ground(scene.ground)
    mask = foreground(frame - lit.at(*frame.shape[:2]) - lit.light(frame), scene.level)
    blobs = blobs_of(mask)
    x, y = blobs.centres[0].tolist()
    return Alignment(x, y, 0.0, 1.0, 1.0, np.eye(2, 3), 0.0, bool(blobs.touching[0]))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected area, and all others of a tenth of it."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0
    if count < 2:
        raise NoPartSeen("the parts have no common outline")
    return np.asarray((areas >= 0.1 * areas.max())[labels], np.bool_)


def _centred(template: PartTemplate) -> PartTemplate:
    """Moved, and shrunk where it must be, so that the part's centroid is the grid's middle and all of it lies within."""
    rows, columns = np.nonzero(template.mask)
    x, y = float(columns.mean()), float(rows.mean())
    radius = float(np.hypot(columns - x, rows - y).max()) + 0.5
    size, middle = radius / RADIUS_PX, (GRID_PX - 1) / 2
    matrix = np.array([[size, 0, x - size * middle], [0, size, y - size * middle]])
    flags, side = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (GRID_PX, GRID_PX)
    image = np.asarray(cv2.warpAffine(template.image, matrix, side, flags=flags), np.float32)
    mask = cv2.warpAffine(template.mask.astype(np.float32), matrix, side, flags=flags) > 0.5
    return replace(template, image=image, mask=mask, frame_px=template.frame_px * size)


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Frames that could be aligned to a template, and how."""

    aligner: Aligner
    frames: list[Images]
    found: list[Alignment]

    @property
    def scores(self) -> NDArray[np.float64]:
        return np.array([each.score for each in self.found])


def _align(template: PartTemplate, frames: Sequence[Images]) -> _Aligned:
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
    aligned = _Aligned(aligner, kept, found)
    if float(np.median(aligned.scores)) < LEAST_LIKENESS:
        raise NoPartSeen("the parts that stand out from the background do not resemble each other")
    return aligned


def _again(template: PartTemplate, frames: Sequence[Images]) -> PartTemplate:
    """A template from all parts, aligned to this one; the least alike fifth is left out."""
    aligned = _align(template, frames)
    scores = aligned.scores
    best = np.flatnonzero(scores >= np.quantile(scores, 0.2))
    return _averaged(template, aligned, best)


def _averaged(template: PartTemplate, aligned: _Aligned, which: NDArray[np.intp]) -> PartTemplate:
    """The median look of some aligned parts, the same after each turn of the symmetry; outline by majority."""
    images = np.stack([aligned.aligner.seen(aligned.frames[index], aligned.found[index]) for index in which])
    image = np.asarray(np.median(images, axis=0), np.float32)
    share = np.mean([distance(each) > template.level for each in images], axis=0, dtype=np.float64).astype(np.float32)
    if template.symmetry > 1:
        turns = [360.0 * step / template.symmetry for step in range(template.symmetry)]
        image = np.asarray(np.mean([_turned(image, turn) for turn in turns], axis=0), np.float32)
        share = np.asarray(np.mean([_turned(share, turn) for turn in turns], axis=0), np.float32)
    return _centred(replace(template, image=image, mask=_largest(share > 0.5)))


def _turned(image: Floats, turn_deg: float) -> Floats:
    """A template grid turned about its middle: what lay at angle a lies at a + turn_deg, clockwise on the screen."""
    middle = (GRID_PX - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), -turn_deg, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (GRID_PX, GRID_PX), flags=cv2.INTER_LINEAR), np.float32)


def _settled(template: PartTemplate, frames: Sequence[Images]) -> PartTemplate:
    """Symmetry, turns and scales from how all parts lie; the template in canonical pose."""
    aligned = _align(template, frames)
    symmetry = _symmetry(aligned)
    angles = np.array([each.angle_deg for each in aligned.found])
    scales = np.array([each.scale for each in aligned.found])
    middle, spread = _circular(angles, max(1, symmetry))
    step = 180.0 / max(1, symmetry)
    if symmetry == 0:
        zero, turn = 0.0, 0.0
    elif spread <= ONE_POSE_DEG * min(1.0, step / 90.0):
        zero, turn = middle, min(step, 1.5 * spread + _TURN_SLACK_DEG)
    else:
        zero, turn = _long_side(template.mask), step
    scale = float(np.median(scales))
    low, high = (np.quantile(scales, (0.025, 0.975)) / scale).tolist()
    one_size = high - low <= ONE_SIZE_SPREAD
    places = np.array([(each.x, each.y) for each in aligned.found])
    spread_x, spread_y = (1.4826 * np.median(np.abs(places - np.median(places, axis=0)), axis=0)).tolist()
    return replace(
        template,
        image=_turned(template.image, zero),
        mask=_turned(template.mask.astype(np.float32), zero) > 0.5,
        frame_px=template.frame_px * scale,
        symmetry=symmetry,
        turn_deg=turn,
        least_scale=1.0 if one_size else min(1.0, float(scales.min()) / scale * 0.98),
        largest_scale=1.0 if one_size else max(1.0, float(scales.max()) / scale * 1.02),
        shift_px=(spread_x, spread_y),
    )


def _symmetry(aligned: _Aligned) -> int:
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


def _margins(aligned: _Aligned, turn_deg: float, *, fit: bool) -> NDArray[np.float64]:
    """(P,) by how much each part is less alike when it is turned by so much more."""
    turned = [
        aligned.aligner.score_turned(frame, found, turn_deg, fit=fit)
        for frame, found in zip(aligned.frames, aligned.found, strict=True)
    ]
    return np.asarray(aligned.scores - np.array(turned), np.float64)


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


def _judging(template: PartTemplate, frames: Sequence[Images]) -> PartTemplate:
    """What a fit bounds deviations by, and the limits on scores, from good parts and from halves of them."""
    aligned = _align(template, frames)
    spread = float(np.median([np.median(np.abs(d)) for d in map(aligned.aligner.deviations, aligned.frames, aligned.found)]))
    template = replace(template, residual=max(4.0, 3 * 1.4826 * spread))
    scores = _scores_of_others(template, frames)
    usual = float(np.median(scores))
    deviation = 1.4826 * float(np.median(np.abs(scores - usual)))
    template = replace(template, usual_score=usual, sure_score=usual - max(SURE_FACTOR * (usual - float(np.quantile(scores, 0.02))), SURE_SHARE * usual))
    aligned = _align(template, frames)
    halves = _scores_of_halves(aligned)
    least = min(HALF_SCORE_SHARE * float(np.quantile(halves, 0.05)), usual - FAR_BELOW * deviation, 0.6 * usual)
    outside = max(each.outside for each in aligned.found)
    return replace(template, least_score=max(0.1, least), outside=1.5 * outside + 0.015)


def _scores_of_others(template: PartTemplate, frames: Sequence[Images]) -> NDArray[np.float64]:
    """Each part's score by a template that the other half of the parts gives."""
    scores = []
    for turn in (0, 1):
        learnt, others = list(frames[turn::2]), list(frames[1 - turn :: 2])
        aligned = _align(template, learnt)
        scores.append(_align(_averaged(template, aligned, np.arange(len(aligned.found))), others).scores)
    return np.concatenate(scores)


def _scores_of_halves(aligned: _Aligned) -> NDArray[np.float64]:
    """Scores of good parts of which one half, to each side in turn, is taken away: a broken part is still this part."""
    template = aligned.aligner.template
    lit = Ground(template.ground)
    scores = []
    chosen = np.unique(np.linspace(0, len(aligned.frames) - 1, HALVED_PARTS).round().astype(int))
    for index in chosen:
        frame, found = aligned.frames[index], aligned.found[index]
        height, width = frame.shape[:2]
        empty = np.broadcast_to(lit.at(height, width) + lit.light(frame), frame.shape)
        y, x = np.mgrid[:height, :width]
        for side in range(4):
            turn = math.radians(found.angle_deg + 90.0 * side + 20.0)
            gone = (x - found.x) * math.cos(turn) + (y - found.y) * math.sin(turn) > 0
            half = np.where(gone[..., None], np.clip(empty, 0, 255), frame).astype(np.uint8)
            try:
                scores.append(aligned.aligner.align(half).score)
            except Misaligned as fault:
                scores.append(0.0 if fault.score is None else fault.score)
    return np.array(scores)


def _in_full_frames(template: PartTemplate, factor: int) -> PartTemplate:
    """For frames that are larger by `factor` than those it was learnt from."""
    x, y = template.shift_px
    return replace(template, frame_px=template.frame_px * factor, shift_px=(x * factor, y * factor))


def _shrunk(image: Images, factor: int) -> Images:
    """At 1/factor of its size, by area."""
    if factor == 1:
        return image
    height, width = max(1, image.shape[0] // factor), max(1, image.shape[1] // factor)
    cut = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
