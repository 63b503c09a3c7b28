"""What every way of locating shares: the located part, the fault, and what no camera in order delivers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.messages import Image, Pose, Reason

Affine = NDArray[np.float64]

SMALLEST_FRAME_PX = 16


class LocateFault(Exception):
    """The part cannot be judged: `reason` for the verdict, `detail` for people (one line)."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Located:
    """A part in canonical pose.

    part_image: (canvas height, canvas width, 3) uint8 RGB; with mode bright_part black outside the part's rectangle.
    matrix: (2, 3) float64, frame (x, y, 1) -> canvas (x, y), so that masks and boxes can follow. pose: where the part
    lay in the frame. sure: with mode part, the correlation with the learnt template, at most 1; else None.
    """

    part_image: Image
    matrix: Affine
    pose: Pose
    sure: float | None = None


def check_frame(image: Image) -> None:
    """Raise BAD_IMAGE for what no camera in order delivers."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise LocateFault(Reason.BAD_IMAGE, f"expected an (H, W, 3) uint8 image, got {what}")
    if min(image.shape[:2]) < SMALLEST_FRAME_PX:
        raise LocateFault(Reason.BAD_IMAGE, f"a frame of {image.shape[1]}x{image.shape[0]} px is too small")
    sample = image[::4, ::4, 1]
    darkest, brightest = int(sample.min()), int(sample.max())
    if darkest == brightest:
        raise LocateFault(
            Reason.BAD_IMAGE, f"every pixel has the value {darkest}: lens covered, light off or camera faulty"
        )
    if darkest >= 250:
        raise LocateFault(Reason.BAD_IMAGE, "the whole frame is saturated: too much light or too long an exposure")


def shrink(image: Image, factor: int) -> tuple[Image, float]:
    """The frame at 1/factor of its size, and where its first pixel's centre lies in the frame."""
    if factor == 1:
        return image, 0.0
    height, width = image.shape[0] // factor, image.shape[1] // factor
    small = cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
    return small, (factor - 1) / 2  # type: ignore[return-value]
