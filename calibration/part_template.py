"""Good frames -> what the part looks like, how it lies, and from which likeness on something is this part.

Learnt without any label or pose: foreground by the frames' border, a first template from one good part, better ones
from all parts aligned to the last. Nothing is drawn by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import TooFewParts
from calibration.part_pose import TURN_SLACK_DEG, Aligned, align, settled, turned
from calibration.part_scene import Images, Load, NoPartSeen, Scene, read_scene
from engines.alignment import Aligner, Alignment, Ground, Misaligned, PartTemplate
from engines.alignment.foreground import blobs_of, distance, foreground
from engines.alignment.template import GRID_PX

LEAST_FRAMES, MOST_FRAMES = 16, 120
RADIUS_PX = 43.0
STILL_DEG = 1.0
MOVES_SHARE = 0.004
HALVED_PARTS = 24
HALF_SCORE_SHARE = 0.75
FAR_BELOW = 10.0
SURE_FACTOR = 3.0
SURE_SHARE = 0.06


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


def learn_part_template(frames: Sequence[Load]) -> LearntPart:
    """Learn from (H, W, 3) uint8 RGB frames of good parts, of equal size; each is read once or twice.

    Of more than MOST_FRAMES frames, so many are used, evenly spread. Raises TooFewParts, NoPartSeen where they show no
    separable part, and what `frames` raise.
    """
    if len(frames) < LEAST_FRAMES:
        raise TooFewParts(f"{len(frames)} good parts: locate.mode part needs at least {LEAST_FRAMES} to learn from")
    count = min(len(frames), MOST_FRAMES)
    chosen = [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    small, factor, scene = read_scene(chosen)
    kept = [image for image, fit in zip(small, scene.fit, strict=True) if fit]
    template = _first(kept, scene)
    for _ in range(2):
        template = _again(template, kept)
    template = settled(template, kept)
    template = _again(template, kept)
    template = _judging(template, kept)
    return LearntPart(_in_full_frames(template, factor), count, count - len(kept))


def _turns_in_words(template: PartTemplate) -> str:
    if template.symmetry == 0:
        return "it is round: no turn can be told, and none is corrected"
    same = f"; a turn by {360 / template.symmetry:g} degrees looks the same" if template.symmetry > 1 else ""
    if template.turn_deg >= 180 / max(1, template.symmetry):
        return f"it lies turned by any angle{same}"
    if template.turn_deg > 1.5 * STILL_DEG + TURN_SLACK_DEG:
        return f"it turns a little; up to {template.turn_deg:.0f} degrees to either side are corrected{same}"
    return f"it does not turn{same}"


def _first(frames: Sequence[Images], scene: Scene) -> PartTemplate:
    """From the frame whose foreground is the most usual one, any turn and some change of scale allowed."""
    areas, radii = scene.areas[scene.fit], scene.radii[scene.fit]
    radius = float(np.median(radii))
    order = np.argsort(np.abs(areas / np.median(areas) - 1) + np.abs(radii / radius - 1), kind="stable")
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


def _by_foreground(frame: Images, template: PartTemplate, scene: Scene) -> Alignment:
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
    """Moved so that the part's centroid is the grid's middle, and resized so that all of it lies within."""
    rows, columns = np.nonzero(template.mask)
    x, y = float(columns.mean()), float(rows.mean())
    radius = float(np.hypot(columns - x, rows - y).max()) + 0.5
    size, middle = radius / RADIUS_PX, (GRID_PX - 1) / 2
    matrix = np.array([[size, 0, x - size * middle], [0, size, y - size * middle]])
    flags, side = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (GRID_PX, GRID_PX)
    image = np.asarray(cv2.warpAffine(template.image, matrix, side, flags=flags), np.float32)
    mask = cv2.warpAffine(template.mask.astype(np.float32), matrix, side, flags=flags) > 0.5
    return replace(template, image=image, mask=mask, frame_px=template.frame_px * size)


def _again(template: PartTemplate, frames: Sequence[Images]) -> PartTemplate:
    """A template from all parts, aligned to this one; the least alike fifth is left out."""
    aligned = align(template, frames)
    scores = aligned.scores
    best = np.flatnonzero(scores >= np.quantile(scores, 0.2))
    return _averaged(template, aligned, best)


def _averaged(template: PartTemplate, aligned: Aligned, which: NDArray[np.intp]) -> PartTemplate:
    """The median look of some aligned parts, the same after each turn of the symmetry; outline by majority."""
    images = np.stack([aligned.aligner.seen(aligned.frames[index], aligned.found[index]) for index in which])
    image = np.asarray(np.median(images, axis=0), np.float32)
    standing = np.stack([distance(each) > template.level for each in images])
    share = np.asarray(standing.mean(axis=0), np.float32)
    if template.symmetry > 1:
        turns = [360.0 * step / template.symmetry for step in range(template.symmetry)]
        image = np.asarray(np.stack([turned(image, turn) for turn in turns]).mean(axis=0), np.float32)
        share = np.asarray(np.stack([turned(share, turn) for turn in turns]).mean(axis=0), np.float32)
    return _centred(replace(template, image=image, mask=_largest(np.asarray(share > 0.5, np.bool_))))


def _judging(template: PartTemplate, frames: Sequence[Images]) -> PartTemplate:
    """What a fit bounds deviations by, and the limits on scores, from good parts and from halves of them."""
    aligned = align(template, frames)
    deviations = map(aligned.aligner.deviations, aligned.frames, aligned.found)
    spread = float(np.median([np.median(np.abs(each)) for each in deviations]))
    template = replace(template, residual=max(4.0, 3 * 1.4826 * spread))
    scores = _scores_of_others(template, frames)
    usual = float(np.median(scores))
    deviation = 1.4826 * float(np.median(np.abs(scores - usual)))
    below = max(SURE_FACTOR * (usual - float(np.quantile(scores, 0.02))), SURE_SHARE * usual)
    template = replace(template, usual_score=usual, sure_score=usual - below)
    aligned = align(template, frames)
    halves = _scores_of_halves(aligned)
    least = min(HALF_SCORE_SHARE * float(np.quantile(halves, 0.05)), usual - FAR_BELOW * deviation, 0.6 * usual)
    outside = max(each.outside for each in aligned.found)
    return replace(template, least_score=max(0.1, least), outside=1.5 * outside + 0.015)


def _scores_of_others(template: PartTemplate, frames: Sequence[Images]) -> NDArray[np.float64]:
    """Each part's score by a template that the other half of the parts gives."""
    scores = []
    for turn in (0, 1):
        learnt, others = list(frames[turn::2]), list(frames[1 - turn :: 2])
        aligned = align(template, learnt)
        scores.append(align(_averaged(template, aligned, np.arange(len(aligned.found))), others).scores)
    return np.concatenate(scores)


def _scores_of_halves(aligned: Aligned) -> NDArray[np.float64]:
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
