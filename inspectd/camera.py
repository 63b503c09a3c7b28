"""The Camera protocol, and the acquisition thread: trigger -> camera -> frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inspectd.messages import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One image from a camera. `image` is (H, W, 3) uint8 RGB; the receiver owns it and the camera never writes to it again.

    captured_ns: monotonic clock when the exposure ended, as well as the driver knows. source: file name or video
    position. label: the truth where the source knows it ("good", or a defect type), else empty.
    """

    image: Image
    captured_ns: int
    exposure_us: float | None = None
    source: str = ""
    label: str = ""


class Camera(Protocol):
    """A source of images, open once constructed. Used by one thread, the one that made it."""

    def grab(self, timeout_s: float) -> Shot:
        """Block for the next image. Raises CameraTimeout, EndOfFootage, CameraError."""

    def close(self) -> None:
        """Release the device; a second call does nothing."""
