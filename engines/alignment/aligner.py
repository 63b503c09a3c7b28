"""A learnt part in a frame: found, turned and fitted, with a score that says how sure it is.

Coordinates are OpenCV's: the centre of the first pixel is (0, 0). Nothing is drawn by chance: the same frame gives the
same answer, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from engines.alignment.fit import Affine, Fitter, Place, within
from engines.alignment.foreground import Ground, blobs_of, edge_is_touched, foreground
from engines.alignment.guess import Guess, Guesser, Misaligned
from engines.alignment.template import GRID_PX, Floats, PartTemplate
from engines.alignment.view import ANGLES, Image, View, halvings, polar, pyramid, shrunk, span

WORK_DIAMETER_PX = 72
COARSE_DIAMETER_PX = 32
WHOLE_FRAME_PX = 2.6
"""Frames of at most so many part diameters a side are shrunk as a whole; of larger ones the part is cut out first."""
RING_PX = 5
SEARCH_SIDE = GRID_PX // 4
SEARCH_REACH = 8
CANDIDATES = 2
APART_DEG = 20.0
RIVAL_SHARE = 0.6
"""Of the highest correlation above the usual one, what another turn must have to be tried as well."""
SWEEP_DEG = 12.0
HALF_ROUNDS, FULL_ROUNDS, LEFT_ROUNDS = 4, 2, 10
LEFT_SCORE = 0.98
"""Of its score, what a fit to the rest of a broken part must keep."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the part lies: its middle (x, y) in frame pixels, its turn, its scale against the template's frame_px.

    score: how sure, the correlation with the template, at most 1. matrix: (2, 3) float64, template pixels -> frame.
    outside: the share of the part beyond the frame's edge. touching: whether anything large touches the edge.
    """

    x: float
    y: float
    angle_deg: float
    scale: float
    score: float
    matrix: Affine
    outside: float
    touching: bool


class Aligner:
    """Finds one learnt part in frames of any size. Used by one thread."""

    def __init__(self, template: PartTemplate) -> None:
        self._template = template
        self._ground = Ground(template.ground)
        self._guesser = Guesser(template)
        self._diameter_px = template.diameter_px
        smallest = self._diameter_px * template.least_scale
        self._work = halvings(smallest / WORK_DIAMETER_PX)
        self._coarse = halvings(smallest / COARSE_DIAMETER_PX)
        self._whole_px = WHOLE_FRAME_PX * self._diameter_px
        mask = template.mask.astype(np.uint8)
        region = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING_PX + 1,) * 2)) > 0
        options = {
            "residual": template.residual,
            "turns": template.symmetry != 0,
            "grows": template.largest_scale > template.least_scale,
        }
        images = pyramid(template.image)
        regions = [each[..., 0] > 0.5 for each in pyramid(np.repeat(region[..., None], 3, axis=2).astype(np.float32))]
        self._fitters = [
            Fitter(image, near, step=float(2**level), **options)  # type: ignore[arg-type]
            for level, (image, near) in enumerate(zip(images[:2], regions[:2], strict=True))
        ]
        weight = np.repeat(regions[2][..., None], 3, axis=2).astype(np.float32)
        mean = (images[2] * weight).sum(axis=(0, 1)) / max(1.0, float(weight[..., 0].sum()))
        self._probe = np.ascontiguousarray((images[2] - mean) * weight, np.float32)
        middle = (GRID_PX // 2 - 1) / 2
        self._spectrum = np.conj(np.fft.rfft(polar(images[1], middle, middle, GRID_PX / 4), axis=0))
        rows, columns = np.nonzero(mask[::4, ::4])
        self._inside = np.stack([columns * 4.0, rows * 4.0, np.ones(rows.size)])

    @property
    def template(self) -> PartTemplate:
        """What it looks for."""
        return self._template

    def align(self, frame: Image) -> Alignment:
        """Find the part in an (H, W, 3) uint8 RGB frame. Raises Misaligned."""
        template = self._template
        height, width = frame.shape[:2]
        whole = max(height, width) <= self._whole_px
        work = shrunk(frame, self._work) if whole else None
        coarse, coarse_factor = self._coarse_view(frame, work)
        light = self._ground.light(coarse)
        ground = self._ground.at(*coarse.shape[:2]) + light
        guess = self._guesser.from_blobs(blobs_of(foreground(coarse - ground, template.level)), coarse_factor)
        view = self._view(frame, work, guess, light)
        found = self._search(view, guess)
        score = self._fitters[0].score(view.full, found)
        if score < template.sure_score:
            found, score = self._search_further(view, guess, found, score)
        touching = guess.touching and edge_is_touched(frame, ground, template.level)
        return self._judged(self._alignment(view, found, score, touching, frame), guess)

    def seen(self, frame: Image, found: Alignment) -> Floats:
        """(GRID_PX, GRID_PX, 3) float32: the part in the template's pose, less the background."""
        view, place = self._view_of(frame, found)
        side = GRID_PX
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(view.full, place.matrix(side, 1.0), (side, side), flags=flags), np.float32)

    def deviations(self, frame: Image, found: Alignment) -> Floats:
        """(N, 3) float32 grey levels by which the part differs from the template, pixel by pixel."""
        view, place = self._view_of(frame, found)
        return self._fitters[0].deviations(view.full, place)

    def score_turned(self, frame: Image, found: Alignment, turn_deg: float, *, fit: bool) -> float:
        """The score where the part is turned by so much more; `fit`: where it then fits best nearby."""
        view, place = self._view_of(frame, found)
        place = place.moved(0.0, 0.0, turn_deg, 1.0)
        return self._fitters[0].score(view.full, self._finest(view, [place]) if fit else place)

    def _view_of(self, frame: Image, found: Alignment) -> tuple[View, Place]:
        """The view of a part that was found, and its place there."""
        work = shrunk(frame, self._work) if max(frame.shape[:2]) <= self._whole_px else None
        light = self._ground.light(self._coarse_view(frame, work)[0])
        view = self._view(frame, work, Guess(found.x, found.y, found.scale, found.touching, crowded=False), light)
        x, y = view.from_frame(found.x, found.y)
        return view, Place(x, y, found.angle_deg, found.scale * self._template.frame_px / view.factor)

    def _coarse_view(self, frame: Image, work: Image | None) -> tuple[Image, int]:
        """The whole frame at a size at which its foreground is told from its background."""
        if work is None:
            return shrunk(frame, self._coarse), self._coarse
        again = max(1, self._coarse // self._work)
        return shrunk(work, again), again * self._work

    def _view(self, frame: Image, work: Image | None, guess: Guess, light: Floats) -> View:
        """The frame, or the part cut out with all that a search may look at, less its background."""
        factor = self._work
        left, top = 0, 0
        height, width = frame.shape[0] // factor, frame.shape[1] // factor
        ground = self._ground.at(height, width)
        if work is None:
            reach = 0.75 * self._diameter_px * self._template.largest_scale + 4 * factor
            columns = span(guess.x, reach, width, factor)
            rows = span(guess.y, reach, height, factor)
            left, top = columns[0] * factor, rows[0] * factor
            work = shrunk(frame[top : rows[1] * factor, left : columns[1] * factor], factor)
            ground = ground if ground.ndim == 1 else ground[rows[0] : rows[1], columns[0] : columns[1]]
        full = work - (ground + light)
        offset = (factor - 1) / 2
        images = pyramid(np.asarray(full, np.float32))
        return View(*images, factor, left + offset, top + offset)

    def _search(self, view: View, guess: Guess) -> Place:
        """The best fit from the few turns that the view suggests."""
        x, y = view.from_frame(guess.x, guess.y)
        size = self._template.frame_px * guess.scale / view.factor
        places = [self._shifted(view, Place(x, y, turn, size))[1] for turn in self._suggested_turns(view, x, y, size)]
        return self._finest(view, places)

    def _search_further(self, view: View, guess: Guess, found: Place, score: float) -> tuple[Place, float]:
        """Where a part shows little of itself its middle misleads: every turn, at every near place."""
        x, y = view.from_frame(guess.x, guess.y)
        sizes = {guess.scale, math.sqrt(self._template.least_scale * self._template.largest_scale)}
        tried = [
            self._shifted(view, Place(x, y, turn, self._template.frame_px * size / view.factor), SEARCH_REACH + 4)
            for size in sorted(sizes)
            for turn in self._all_turns()
        ]
        tried.sort(key=lambda each: -each[0])
        place = self._finest(view, [each[1] for each in tried[: CANDIDATES + 1]])
        again = self._fitters[0].score(view.full, place)
        if again > score:
            found, score = place, again
        place, scales = found.times(0.5, -0.25, -0.25), self._scales(view)
        half_scales = (scales[0] / 2, scales[1] / 2)
        place = self._fitters[1].fit_to_what_is_left(view.half, place, rounds=LEFT_ROUNDS, scales=half_scales)
        place = place.times(2.0, 0.5, 0.5)
        place = self._fitters[0].fit_to_what_is_left(view.full, place, rounds=LEFT_ROUNDS, scales=scales)
        again = self._fitters[0].score(view.full, place)
        return (place, again) if again > LEFT_SCORE * score else (found, score)

    def _scales(self, view: View) -> tuple[float, float]:
        """The limits of scale in the view."""
        size = self._template.frame_px / view.factor
        return size * self._template.least_scale, size * self._template.largest_scale

    def _all_turns(self) -> Iterator[float]:
        limit = self._template.turn_deg
        steps = max(1, math.ceil(2 * limit / SWEEP_DEG))
        yield from (0.0,) if limit == 0 else (limit * (2 * step + 1 - steps) / steps for step in range(steps))

    def _suggested_turns(self, view: View, x: float, y: float, size: float) -> list[float]:
        """The turns with the highest correlation over rings around the part's middle."""
        template = self._template
        if template.symmetry == 0 or template.turn_deg == 0:
            return [0.0]
        half = size * GRID_PX / 4
        rings = polar(view.half, (x - 0.5) / 2, (y - 0.5) / 2, half)
        curve = np.fft.irfft((np.fft.rfft(rings, axis=0) * self._spectrum).sum(axis=1), n=ANGLES)
        turns = (np.arange(ANGLES) * 360.0 / ANGLES + 180.0) % 360.0 - 180.0
        highest, usual = float(curve.max()), float(curve.mean())
        curve[np.abs(turns) > template.turn_deg + 180.0 / ANGLES] = -np.inf
        found: list[float] = []
        while len(found) < CANDIDATES:
            best = int(curve.argmax())
            if found and curve[best] - usual < RIVAL_SHARE * (highest - usual):
                break
            found.append(float(turns[best]))
            curve[np.abs((turns - turns[best] + 180.0) % 360.0 - 180.0) < APART_DEG] = -np.inf
        return found

    def _shifted(self, view: View, place: Place, reach: int = SEARCH_REACH) -> tuple[float, Place]:
        """The place near this one, at the same turn and scale, that correlates best at low resolution; and how well."""
        side = SEARCH_SIDE + 2 * reach
        low = place.times(0.25, -0.375, -0.375)
        seen = cv2.warpAffine(
            view.quarter,
            low.matrix(side, 4.0),
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        matches = cv2.matchTemplate(seen, self._probe, cv2.TM_CCORR)
        row, column = divmod(int(matches.argmax()), matches.shape[1])
        return float(matches[row, column]), place.moved(4.0 * (column - reach), 4.0 * (row - reach), 0.0, 1.0)

    def _finest(self, view: View, places: list[Place]) -> Place:
        """Fit each at half resolution, and the best one at full."""
        scales = self._scales(view)
        half_scales = (scales[0] / 2, scales[1] / 2)
        best, best_score = places[0], -math.inf
        for place in places:
            fitted = self._fitters[1].fit(
                view.half, place.times(0.5, -0.25, -0.25), rounds=HALF_ROUNDS, scales=half_scales
            )
            score = self._fitters[1].score(view.half, fitted) if len(places) > 1 else 0.0
            if score > best_score:
                best, best_score = fitted.times(2.0, 0.5, 0.5), score
        return within(self._fitters[0].fit(view.full, best, rounds=FULL_ROUNDS, scales=scales), scales)

    def _alignment(self, view: View, found: Place, score: float, touching: bool, frame: Image) -> Alignment:
        place = found.times(float(view.factor), view.left, view.top)
        matrix = place.matrix(GRID_PX, 1.0)
        x, y = matrix @ self._inside
        height, width = frame.shape[:2]
        beyond = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
        return Alignment(
            place.x,
            place.y,
            self._folded(place.angle_deg),
            place.scale / self._template.frame_px,
            score,
            matrix,
            float(np.count_nonzero(beyond)) / x.size,
            touching,
        )

    def _folded(self, angle_deg: float) -> float:
        """The turn in [-180, 180) / symmetry."""
        step = 360.0 / max(1, self._template.symmetry)
        return (angle_deg + step / 2) % step - step / 2

    def _judged(self, found: Alignment, guess: Guess) -> Alignment:
        """The alignment, where it shows one whole learnt part; raises Misaligned."""
        template = self._template
        if found.touching and found.outside > template.outside:
            detail = f"{found.outside:.0%} of the part lie beyond the edge of the frame"
            raise Misaligned("part_cut_off", detail, found.score)
        if found.score < template.least_score:
            if found.touching:
                raise Misaligned("part_cut_off", "something at the edge of the frame that shows no part", found.score)
            detail = f"resembles the learnt part by {found.score:.2f}; {template.least_score:.2f} are needed"
            raise Misaligned("other_part", detail, found.score)
        if guess.crowded:
            raise Misaligned(
                "several_parts",
                "an area as large as several parts: they touch, or lie nearer to the camera",
                found.score,
            )
        return found
