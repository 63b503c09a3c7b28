"""From a rough pose to one that fits a template to a fraction of a pixel, and how well it fits.

The inverse compositional form of Lucas-Kanade (Baker and Matthews, IJCV 2004): the template's gradients, Hessian and
solution operator are computed once, and an iteration is one warp and one product. As in ECC (Evangelidis and Psarakis,
TPAMI 2008; `cv2.findTransformECC`) light may change by a factor and an offset, here each channel's. Unlike ECC, motion
is a similarity whose scale stays within limits, deviations count for a bounded amount each, as in Huber's estimator, so
that missing material does not pull the pose, and channels count together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Affine = NDArray[np.float64]
LEAST_INFORMATION = 1e-3
SETTLED_PX = 0.02
CONTRAST_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Place:
    """A template's pose in an image: its middle, its turn (clockwise on the screen) and its scale."""

    x: float
    y: float
    angle_deg: float
    scale: float

    def matrix(self, side: int, step: float) -> Affine:
        """(2, 3) float64: pixels of a side x side grid, `step` template pixels apart, -> image pixels."""
        turn, size = math.radians(self.angle_deg), self.scale * step
        cos, sin, middle = size * math.cos(turn), size * math.sin(turn), (side - 1) / 2
        return np.array(
            [[cos, -sin, self.x - middle * (cos - sin)], [sin, cos, self.y - middle * (sin + cos)]], np.float64
        )

    def moved(self, shift_x: float, shift_y: float, turn_deg: float, growth: float) -> Place:
        """Composed with a motion in template pixels (shift after turn and growth): this pose after that motion."""
        turn = math.radians(self.angle_deg)
        cos, sin = self.scale * math.cos(turn), self.scale * math.sin(turn)
        return Place(
            self.x + cos * shift_x - sin * shift_y,
            self.y + sin * shift_x + cos * shift_y,
            self.angle_deg + turn_deg,
            self.scale * growth,
        )

    def times(self, factor: float, offset_x: float, offset_y: float) -> Place:
        """In an image whose pixel u lies at u * factor + offset."""
        return Place(self.x * factor + offset_x, self.y * factor + offset_y, self.angle_deg, self.scale * factor)


class Fitter:
    """A template at one resolution, to be fitted.

    image: (side, side, 3) float32; region: (side, side) bool, where it is compared; step: the size of its pixels in
    those of the full template; residual: the most that a deviation counts for, in grey levels; turns, grows: what is
    fitted beside the place.
    """

    def __init__(
        self, image: Floats, region: NDArray[np.bool_], *, step: float, residual: float, turns: bool, grows: bool
    ) -> None:
        side = image.shape[0]
        self._side, self._step = side, step
        self._limit = np.float32(residual)
        self._region = np.repeat(region.reshape(-1, 1), 3, axis=1).astype(np.float32)
        self._averaging = np.asarray(region.reshape(-1) / max(1, int(region.sum())), np.float32)
        self._template = self._centred(image.reshape(-1, 3))
        self._contrast = float(np.abs(image).max())
        self._power = float(np.vdot(self._template, self._template))
        self._solver = self._solution(image, turns=turns, grows=grows)

    def fit(self, image: Floats, place: Place, *, rounds: int, scales: tuple[float, float]) -> Place:
        """The pose near `place` that fits an (h, w, 3) float32 image best; the scale stays within `scales`."""
        for _ in range(rounds):
            seen = self._seen(image, place)
            power = float(np.vdot(seen, seen))
            gain = float(np.vdot(seen, self._template)) / power if power > 0 else 0.0
            if gain <= 0:
                return place
            deviation = seen * np.float32(gain)
            deviation -= self._template
            np.clip(deviation, -self._limit, self._limit, out=deviation)
            place, settled = self._stepped(place, deviation, scales)
            if settled:
                break
        return place

    def fit_to_what_is_left(self, image: Floats, place: Place, *, rounds: int, scales: tuple[float, float]) -> Place:
        """As `fit`, for a part of which much is missing: what deviates from the template does not count at all.

        Light is told by the rest alone. What is a deviation begins with most of the part's contrast, because near edges
        a pose that is a little off deviates as well, and narrows round by round.
        """
        bounds = np.geomspace(max(CONTRAST_SHARE * self._contrast, float(self._limit)), float(self._limit), rounds)
        seen = self._seen(image, place)
        power = float(np.vdot(seen, seen))
        gain = float(np.vdot(seen, self._template)) / power if power > 0 else 0.0
        if gain <= 0:
            return place
        counts = self._alike(seen * np.float32(gain) - self._template, bounds[0])
        for bound in bounds:
            seen = self._seen(image, place)
            share = np.float32(1 / max(1.0, float(counts.sum())))
            seen_mean, mean = (counts @ seen) * share, (counts @ self._template) * share
            apart, wanted = (seen - seen_mean) * counts[:, None], (self._template - mean) * counts[:, None]
            power = float(np.vdot(apart, apart))
            gain = float(np.vdot(apart, wanted)) / power if power > 0 else 0.0
            if gain <= 0:
                return place
            counts = self._alike((seen - seen_mean) * np.float32(gain) - (self._template - mean), bound)
            deviation = (apart * np.float32(gain) - wanted) * counts[:, None]
            place, _ = self._stepped(place, np.asarray(deviation, np.float32), scales)
        return place

    def _alike(self, deviation: Floats, bound: float) -> Floats:
        """(side * side,) float32, 1 where no channel deviates by more than the bound, in the compared region."""
        apart = np.abs(deviation)
        apart = np.maximum(np.maximum(apart[:, 0], apart[:, 1]), apart[:, 2])
        return np.asarray((apart <= bound) * self._region[:, 0], np.float32)

    def _stepped(self, place: Place, deviation: Floats, scales: tuple[float, float]) -> tuple[Place, bool]:
        """The next pose, and whether it hardly differs."""
        x, y, turn, growth = (self._solver @ deviation.reshape(-1)).tolist()
        # The motion of the template is undone in the image: the inverse of shift, turn and growth.
        turn, growth = max(-0.3, min(0.3, turn)), math.exp(max(-0.1, min(0.1, -growth)))
        cos, sin = growth * math.cos(turn), growth * math.sin(turn)
        step = self._step
        shift_x, shift_y = -(cos * x + sin * y) * step, -(cos * y - sin * x) * step
        settled = math.hypot(x, y) < SETTLED_PX and abs(turn) * self._side / 2 < SETTLED_PX
        return within(place.moved(shift_x, shift_y, -math.degrees(turn), growth), scales), settled

    def score(self, image: Floats, place: Place) -> float:
        """The zero-mean normalised correlation of the image in this pose with the template, -1 to 1."""
        seen = self._seen(image, place)
        power = float(np.vdot(seen, seen)) * self._power
        return float(np.vdot(seen, self._template)) / math.sqrt(power) if power > 0 else 0.0

    def deviations(self, image: Floats, place: Place) -> Floats:
        """(N, 3) float32 grey levels: image less template, at the template's contrast, in the compared region."""
        seen = self._seen(image, place)
        power = float(np.vdot(seen, seen))
        gain = float(np.vdot(seen, self._template)) / power if power > 0 else 0.0
        return np.asarray((seen * np.float32(gain) - self._template)[self._region[:, 0] > 0], np.float32)

    def _seen(self, image: Floats, place: Place) -> Floats:
        """(side * side, 3) float32: the image in this pose, less its mean; nothing lies beyond the image's edge."""
        warped = cv2.warpAffine(
            image,
            place.matrix(self._side, self._step),
            (self._side, self._side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        return self._centred(np.asarray(warped, np.float32).reshape(-1, 3))

    def _centred(self, pixels: Floats) -> Floats:
        # A scalar for each channel, which the stubs do not know; numpy takes three times as long to broadcast it.
        mean = (self._averaging @ pixels).tolist()
        apart = cv2.subtract(pixels.reshape(self._side, self._side, 3), (*mean, 0.0))  # type: ignore[call-overload]
        return np.asarray(apart, np.float32).reshape(-1, 3) * self._region

    def _solution(self, image: Floats, *, turns: bool, grows: bool) -> Floats:
        """(4, side * side * 3): deviations -> shift in x, in y, turn in radians, growth as a logarithm."""
        across = cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3, scale=0.125).astype(np.float64)
        down = cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=3, scale=0.125).astype(np.float64)
        y, x = np.mgrid[: self._side, : self._side].astype(np.float64)[..., None] - (self._side - 1) / 2
        descent = [across, down, across * -y + down * x, across * x + down * y]
        template = self._template.reshape(-1).astype(np.float64)
        used = [0, 1] + [2] * turns + [3] * grows
        columns = []
        for index in used:
            column = self._centred(descent[index].reshape(-1, 3).astype(np.float32)).reshape(-1).astype(np.float64)
            columns.append(column - template * (template @ column) / max(self._power, 1e-12))
        jacobian = np.stack(columns, axis=1)
        lengths = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)
        unit = jacobian / lengths
        solver = np.zeros((4, jacobian.shape[0]))
        solver[used] = np.linalg.pinv(unit.T @ unit, rcond=LEAST_INFORMATION) @ unit.T / lengths[:, None]
        return np.ascontiguousarray(solver, np.float32)


def within(place: Place, scales: tuple[float, float]) -> Place:
    """The same pose with its scale within limits."""
    scale = min(max(place.scale, scales[0]), scales[1])
    return place if scale == place.scale else Place(place.x, place.y, place.angle_deg, scale)
