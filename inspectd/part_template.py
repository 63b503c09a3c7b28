"""For `locate`: a part of any look, by the template that calibration learnt, in its canonical pose on the canvas."""

from __future__ import annotations

import math

import cv2
import numpy as np

from engines.alignment import Aligner, Misaligned, PartTemplate
from engines.settings import CanvasSettings
from inspectd.located import Affine, Located, LocateFault, shrink
from inspectd.messages import Image, Pose, Reason

MARGIN_SHARE = 0.06
"""Of the canvas, left free on each side of the part."""


class PartLocator:
    """Frame -> part image, for one template and one canvas. Used by one thread."""

    def __init__(self, template: PartTemplate, canvas: CanvasSettings) -> None:
        self._aligner = Aligner(template)
        self._size = (canvas.width_px, canvas.height_px)
        self._to_canvas = canvas_matrix(template, canvas)
        self._from_canvas = np.asarray(cv2.invertAffineTransform(self._to_canvas), np.float64)

    def locate(self, image: Image, out: Image) -> Located:
        """Find the part in an (H, W, 3) uint8 RGB frame and write it into `out`, which has the canvas's shape.

        What lies around the part is shown as the frame has it; beyond the frame's edge its border is repeated.
        Raises LocateFault with NO_PART, SEVERAL_PARTS, PART_CUT_OFF or OTHER_PART.
        """
        try:
            found = self._aligner.align(image)
        except Misaligned as fault:
            raise LocateFault(Reason(fault.fault), fault.detail) from fault
        to_frame = _composed(found.matrix, self._from_canvas)
        scale = math.hypot(to_frame[0, 0], to_frame[1, 0])
        source, matrix = _source(image, to_frame, self._size, math.floor(scale))
        cv2.warpAffine(
            source,
            matrix,
            self._size,
            dst=out,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        pose = Pose(x_px=found.x, y_px=found.y, angle_deg=found.angle_deg, scale=scale)
        return Located(out, np.asarray(cv2.invertAffineTransform(to_frame), np.float64), pose, found.score)


def canvas_matrix(template: PartTemplate, canvas: CanvasSettings) -> Affine:
    """(2, 3) float64, template pixels -> canvas: the part's upright box as large as it fits, in the middle."""
    rows, columns = np.nonzero(template.mask)
    left, right = columns.min() - 0.5, columns.max() + 0.5
    top, bottom = rows.min() - 0.5, rows.max() + 0.5
    room = 1 - 2 * MARGIN_SHARE
    size = min(room * canvas.width_px / (right - left), room * canvas.height_px / (bottom - top))
    x = (canvas.width_px - 1) / 2 - size * (left + right) / 2
    y = (canvas.height_px - 1) / 2 - size * (top + bottom) / 2
    return np.array([[size, 0.0, x], [0.0, size, y]])


def _composed(outer: Affine, inner: Affine) -> Affine:
    """(2, 3): first `inner`, then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def _source(image: Image, to_frame: Affine, size: tuple[int, int], factor: int) -> tuple[Image, Affine]:
    """What to warp, and by which matrix; for a canvas that is coarser than the frame, the frame is shrunk by area."""
    if factor < 2:
        return image, to_frame
    corners = to_frame @ np.array([[0, size[0] - 1, 0, size[0] - 1], [0, 0, size[1] - 1, size[1] - 1], [1, 1, 1, 1]])
    height, width = image.shape[:2]
    left, top = (
        int(min(max(0, low - factor), side - factor)) for low, side in zip(corners.min(1), (width, height), strict=True)
    )
    right, bottom = (
        int(max(first + factor, min(side, high + 2 * factor)))
        for high, first, side in zip(corners.max(1), (left, top), (width, height), strict=True)
    )
    small, offset = shrink(image[top:bottom, left:right], factor)
    matrix = to_frame.copy()
    matrix[:, 2] -= (left + offset, top + offset)
    return small, matrix / factor
