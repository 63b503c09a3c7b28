"""The section `camera` of a station's settings: one class for each kind of camera, `CameraSettings` for any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engines.settings import Settings

REPEATED = (
    "an image that equals one of the last 256 is INVALID (repeated_image); five in a row: frozen, reopened; over when "
    "another image comes"
)
SIZE = "an image of another size than the first one is INVALID (bad_image)"
SCALED = "; a video or network stream that changes its own size is judged: FFmpeg scales it to the first size untold"


class SimulatedCameraSettings(Settings):
    """The simulated capacitor line."""

    kind: Literal["simulated"] = Field(description="renders parts; needs no device")
    seed: int = Field(1, ge=0, description="same seed, same parts")
    defect_share: float = Field(0.0, ge=0, le=1, description="share of defective parts in the stream")
    pool: int = Field(256, ge=1, le=10_000, description="parts rendered ahead; the stream repeats after so many")
    refuse_repeated: bool = Field(False, description=REPEATED)
    fixed_size: bool = Field(True, description=SIZE)


class FolderCameraSettings(Settings):
    """Images of a folder in name order."""

    kind: Literal["folder"] = Field(description="images on disk")
    path: Path = Field(description="folder with images (png, jpg, bmp, tif, webp)")
    loop: bool = Field(False, description="start over at the end")
    refuse_repeated: bool = Field(False, description=REPEATED)
    fixed_size: bool = Field(False, description=SIZE)


class VideoCameraSettings(Settings):
    """Frames of a video file."""

    kind: Literal["video"] = Field(description="a recorded video")
    path: Path = Field(description="video file that OpenCV reads")
    loop: bool = Field(False, description="start over at the end")
    refuse_repeated: bool = Field(False, description=REPEATED)
    fixed_size: bool = Field(True, description=SIZE + SCALED)


class OpenCvCameraSettings(Settings):
    """A V4L2 device or an RTSP stream through OpenCV."""

    kind: Literal["opencv"] = Field(description="a live camera")
    source: str = Field(description="device number, /dev/videoN, or rtsp:// address")
    width_px: int | None = Field(None, ge=16, description="requested frame width")
    height_px: int | None = Field(None, ge=16, description="requested frame height")
    exposure_us: float | None = Field(None, gt=0, description="requested exposure time")
    refuse_repeated: bool = Field(True, description=REPEATED)
    fixed_size: bool = Field(True, description=SIZE + SCALED)


CameraSettings = Annotated[
    SimulatedCameraSettings | FolderCameraSettings | VideoCameraSettings | OpenCvCameraSettings,
    Field(discriminator="kind"),
]
