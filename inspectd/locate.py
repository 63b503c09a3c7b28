"""The stage frame -> part image: find the one part, correct pose and scale, bring it to the canvas.

A bright part is found coarsely (threshold, one blob, moments); `part_edges` then measures the four edges to a fraction
of a pixel. A part of any other look is found by the template of the bundle (`part_template`). Coordinates are OpenCV's:
the centre of the first pixel is (0, 0). Nothing here knows how the picture was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.alignment import PartTemplate
from engines.pictures import Levels, to_8_bits
from engines.settings import CanvasSettings
from inspectd.located import Affine, Located, LocateFault, check_frame, shrink
from inspectd.messages import DeepImage, Image, Pose, Reason
from inspectd.part_edges import EdgeFitter, OrientedBox
from inspectd.part_template import PartLocator
from inspectd.sections import LocateSettings

Grey = NDArray[np.uint8]

COARSE_SHORT_SIDE_PX = 17
BORDER_NOISE_FACTOR = 6.0
LEAST_CONTRAST = 12
ASPECT_TOLERANCE = 1.22
TWO_PARTS_STRETCH = 1.5
LONGEST_END = 0.65
LEAST_SOLIDITY = 0.82
FRAGMENT_SHARE = 0.25
SLIVER_SHARE = 0.03
COARSE_SLACK = 1.12
LEAST_SLOPE = 8
_CLOSING = np.ones((5, 5), np.uint8)


class Locator:
    """Frame -> canonical part image, for one station. Used by one thread."""

    def __init__(
        self,
        settings: LocateSettings,
        canvas: CanvasSettings,
        template: PartTemplate | None = None,
        levels: Levels | None = None,
    ) -> None:
        """template: of the bundle; with mode part nothing can be located without it, other modes need none.

        levels: of the bundle; which grey levels of a 16-bit frame become black and white, None: its upper 8 bits.
        """
        self._levels = levels
        self._settings = settings
        self._learnt = PartLocator(template, canvas) if template is not None and settings.mode == "part" else None
        self._shape = (canvas.height_px, canvas.width_px, 3)
        self._top = (canvas.height_px - settings.part_height_px) // 2
        self._left = (canvas.width_px - settings.part_width_px) // 2
        self._fitter = EdgeFitter(settings.part_width_px, settings.part_height_px)
        short_side = settings.min_scale * settings.part_height_px
        self._decimate = max(1, int(short_side // COARSE_SHORT_SIDE_PX))
        self._smallest_area = (
            settings.part_width_px * settings.part_height_px * (settings.min_scale / self._decimate) ** 2
        )

    def locate(self, image: DeepImage, out: Image | None = None) -> Located:
        """Find the part in an (H, W, 3) RGB frame, uint8 or uint16, and return it in canonical pose.

        `out`, a C-contiguous (canvas height, canvas width, 3) uint8 array, is written and returned instead of a new
        array. Raises LocateFault with NO_PART, SEVERAL_PARTS, PART_CUT_OFF, OTHER_PART or BAD_IMAGE; ValueError for an
        unfit `out`, and with mode part where there is no template.
        """
        if out is None:
            out = np.empty(self._shape, np.uint8)
        elif out.shape != self._shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous uint8 of shape {self._shape}, got {out.dtype} {out.shape}")
        frame = self._in_8_bits(image)
        check_frame(frame)
        if self._settings.mode == "off":
            return self._whole_frame(frame, out)
        if self._settings.mode == "part":
            if self._learnt is None:
                raise ValueError("locate.mode part needs the template of a bundle")
            return self._learnt.locate(frame, out)
        small, offset = shrink(frame, self._decimate)
        coarse = self._find(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        box = self._refine(frame, coarse.in_full_frame(self._decimate, offset))
        return self._cut(frame, box, out)

    def _in_8_bits(self, image: DeepImage) -> Image:
        """What scores are computed on. Raises LocateFault for 8 bits where the bundle was made from more."""
        dtype = getattr(image, "dtype", None)
        if dtype == np.uint16:
            return to_8_bits(image, self._levels)
        if self._levels is not None and dtype == np.uint8:
            raise LocateFault(
                Reason.BAD_IMAGE,
                "the image has 8 bits, the bundle was calibrated from deeper ones: check the camera's pixel format",
            )
        return image  # type: ignore[return-value]  # what it is, is checked next

    def _whole_frame(self, image: Image, out: Image) -> Located:
        height, width = image.shape[:2]
        to_height, to_width = self._shape[:2]
        shrinking = height > to_height or width > to_width
        cv2.resize(
            image, (to_width, to_height), dst=out, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        )
        scale_x, scale_y = to_width / width, to_height / height
        matrix = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])
        scale = 1 / math.sqrt(scale_x * scale_y)
        return Located(out, matrix, Pose(x_px=(width - 1) / 2, y_px=(height - 1) / 2, angle_deg=0.0, scale=scale))

    def _find(self, grey: cv2.typing.MatLike) -> OrientedBox:
        """The one blob of a part's size and shape, in pixels of the shrunken frame."""
        grey = _flatten(np.asarray(cv2.blur(grey, (3, 3)), np.uint8))
        binary = cv2.threshold(grey, _threshold(grey), 255, cv2.THRESH_BINARY)[1]
        binary = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, _CLOSING)
        contours = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        blobs = [contour for contour in contours if cv2.contourArea(contour) >= FRAGMENT_SHARE * self._smallest_area]
        if not blobs:
            self._no_blob(contours, grey.shape)
        blob = blobs[0] if len(blobs) == 1 else self._join(blobs)
        if _touches_border(blob, grey.shape):
            raise LocateFault(Reason.PART_CUT_OFF, "the part touches the edge of the frame")
        box, solidity = _box_of(blob)
        misfit = self._misfit(box, self._decimate, COARSE_SLACK, solidity)
        if misfit is not None:
            raise misfit
        return box

    def _no_blob(self, contours: Sequence[cv2.typing.MatLike], shape: tuple[int, ...]) -> NoReturn:
        """Nothing is large enough to be a part: what is left of one at the frame's edge, or nothing."""
        for contour in contours:
            if cv2.contourArea(contour) >= SLIVER_SHARE * self._smallest_area and _touches_border(contour, shape):
                raise LocateFault(Reason.PART_CUT_OFF, "only a piece of a part, at the edge of the frame")
        raise LocateFault(Reason.NO_PART, "nothing bright of a part's size in the frame")

    def _join(self, blobs: list[cv2.typing.MatLike]) -> cv2.typing.MatLike:
        """Electrodes whose body is too dark to be seen are one part; anything else is several."""
        hull = cv2.convexHull(np.concatenate(blobs))
        whole = _box_of(hull)[0]
        ends = [_box_of(blob)[0] for blob in blobs]
        are_ends = len(ends) == 2 and all(end.width < LONGEST_END * whole.width for end in ends)
        if are_ends and self._misfit(whole, self._decimate, COARSE_SLACK) is None:
            return hull
        raise LocateFault(Reason.SEVERAL_PARTS, f"{len(blobs)} parts in the frame")

    def _misfit(self, box: OrientedBox, decimate: float, slack: float, solidity: float = 1.0) -> LocateFault | None:
        """Why a rectangle has not a part's shape and size, or None; `slack` widens the limits on size."""
        settings = self._settings
        along = box.width * decimate / settings.part_width_px
        across = box.height * decimate / settings.part_height_px
        seen = f"a bright area of {box.width * decimate:.0f}x{box.height * decimate:.0f} px"
        stretch = max(along / across, across / along)
        if min(along, across) >= settings.min_scale and (stretch >= TWO_PARTS_STRETCH or solidity < LEAST_SOLIDITY):
            return LocateFault(Reason.SEVERAL_PARTS, f"{seen} has the outline of parts that touch")
        if stretch > ASPECT_TOLERANCE or solidity < LEAST_SOLIDITY:
            return LocateFault(Reason.NO_PART, f"{seen} has not the shape of a part")
        if not settings.min_scale / slack <= math.sqrt(along * across) <= settings.max_scale * slack:
            part = f"{settings.part_width_px}x{settings.part_height_px} px"
            limits = f"{settings.min_scale:g} to {settings.max_scale:g}"
            return LocateFault(Reason.NO_PART, f"{seen}; a part is {part} times {limits}")
        return None

    def _refine(self, image: Image, box: OrientedBox) -> OrientedBox:
        """Measure the edges in the full frame."""
        fitted = self._fitter.fit(image, box)
        if fitted is None:
            raise LocateFault(Reason.NO_PART, "a bright area without the straight edges of a part")
        misfit = self._misfit(fitted, 1.0, 1.0)
        if misfit is not None:
            raise misfit
        limit = self._settings.max_angle_deg
        if abs(fitted.angle_deg) > limit:
            detail = f"a part turned by {fitted.angle_deg:.1f} degrees; allowed are {limit:g}"
            raise LocateFault(Reason.NO_PART, detail)
        height, width = image.shape[:2]
        if not all(-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5 for x, y in fitted.corners()):
            raise LocateFault(Reason.PART_CUT_OFF, "the part reaches over the edge of the frame")
        return fitted

    def _cut(self, image: Image, box: OrientedBox, out: Image) -> Located:
        """Warp the part into the middle of a black canvas."""
        part_width, part_height = self._settings.part_width_px, self._settings.part_height_px
        to_frame = box.part_to_frame(part_width, part_height)
        out[:] = 0
        window = out[self._top : self._top + part_height, self._left : self._left + part_width]
        shrink = math.floor(math.sqrt(box.width / part_width * box.height / part_height))
        source, matrix = (image, to_frame) if shrink < 2 else _shrunken_source(image, box, shrink, to_frame)
        cv2.warpAffine(
            source,
            matrix,
            (part_width, part_height),
            dst=window,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        to_canvas = np.asarray(cv2.invertAffineTransform(to_frame), np.float64)
        to_canvas[:, 2] += (self._left, self._top)
        scale = math.sqrt(box.width / part_width * box.height / part_height)
        pose = Pose(x_px=box.x, y_px=box.y, angle_deg=box.angle_deg, scale=scale)
        return Located(out, to_canvas, pose)


def _flatten(grey: Grey) -> Grey:
    """Take off a background that slopes from one side of the frame to the other; an even one is left as it is."""
    height, width = grey.shape
    left, right, top, bottom = (
        int(np.partition(side.ravel(), side.size // 2)[side.size // 2])
        for side in (grey[:, :2], grey[:, -2:], grey[:2], grey[-2:])
    )
    if max(abs(right - left), abs(bottom - top)) < LEAST_SLOPE:
        return grey
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    plane = (right - left) * x + (bottom - top) * y
    return np.asarray(np.maximum(grey - (plane - plane.min()), 0), np.uint8)


def _threshold(grey: cv2.typing.MatLike) -> int:
    """Between the background and the darkest material of the part.

    The background is what lies along the frame's edge, where no part may be; halfway from there to the lower quartile
    of all that stands out keeps a dark body together with bright electrodes, in weak or uneven light too.
    """
    ring = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()])
    background = _median(ring)
    noise = 1.4826 * _median(np.abs(ring - np.float32(background)))
    brightest = float(grey.max())
    floor = background + max(BORDER_NOISE_FACTOR * noise, 0.08 * (brightest - background), LEAST_CONTRAST / 2)
    if brightest - background < LEAST_CONTRAST or floor >= 255:
        raise LocateFault(Reason.NO_PART, "nothing in the frame is brighter than the background")
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    counts[: math.ceil(floor)] = 0
    share = np.cumsum(counts)
    level = int(np.searchsorted(share, 0.25 * share[-1]))
    return int(max(floor, background + 0.5 * (level - background)))


def _median(values: NDArray[np.uint8] | NDArray[np.float32]) -> float:
    """As np.median of a one-dimensional array of an even size, in a third of its time on so few."""
    middle = values.size // 2
    parted = np.partition(values, (middle - 1, middle))
    return (float(parted[middle - 1]) + float(parted[middle])) / 2


def _touches_border(contour: cv2.typing.MatLike, shape: tuple[int, ...]) -> bool:
    left, top, width, height = cv2.boundingRect(contour)
    return left <= 1 or top <= 1 or left + width >= shape[1] - 1 or top + height >= shape[0] - 1


def _box_of(contour: cv2.typing.MatLike) -> tuple[OrientedBox, float]:
    """The rectangle with the blob's second moments, which bumps and bites hardly move, and the blob's solidity."""
    moments = cv2.moments(contour)
    area = max(moments["m00"], 1e-6)
    spread_x, spread_y, skew = moments["mu20"] / area, moments["mu02"] / area, moments["mu11"] / area
    angle = 0.5 * math.atan2(2 * skew, spread_x - spread_y)
    mean, difference = (spread_x + spread_y) / 2, math.hypot((spread_x - spread_y) / 2, skew)
    box = OrientedBox(
        moments["m10"] / area,
        moments["m01"] / area,
        math.sqrt(12 * (mean + difference)) + 1,
        math.sqrt(12 * max(mean - difference, 0)) + 1,
        math.degrees(angle),
    )
    return box, area / max(cv2.contourArea(cv2.convexHull(contour)), 1e-6)


def _shrunken_source(image: Image, box: OrientedBox, factor: int, to_frame: Affine) -> tuple[Image, Affine]:
    """The frame around the part at 1/factor, so that a large part is averaged, not sampled; and the matrix for it."""
    xs, ys = zip(*box.corners(), strict=True)
    left, top = (max(0, int(min(places)) - factor) for places in (xs, ys))
    right, bottom = (int(max(places)) + 2 * factor for places in (xs, ys))
    small, offset = shrink(image[top:bottom, left:right], factor)
    matrix = to_frame.copy()
    matrix[:, 2] -= (left + offset, top + offset)
    return small, matrix / factor
