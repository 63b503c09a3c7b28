"""Video cameras on real video files, written by OpenCV."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspectd.camera_sections import OpenCvCameraSettings, VideoCameraSettings
from inspectd.cameras import open_camera
from inspectd.errors import CameraError, CameraLost, EndOfFootage

REDS = (40, 120, 200)
FAULTS = Path(__file__).parents[2] / "docs" / "faults.md"


@pytest.fixture(params=[("MJPG", "avi"), ("mp4v", "mp4"), ("FFV1", "mkv")], ids=lambda pair: pair[0])
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three frames, 64x48, each of another red."""
    codec, suffix = request.param
    path = tmp_path / f"parts.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
    assert writer.isOpened()
    for red in REDS:
        writer.write(np.full((48, 64, 3), (10, 60, red), np.uint8))
    writer.release()
    return path


def test_frames_come_in_order_as_rgb_and_then_the_footage_ends(video: Path) -> None:
    """Each grab is one frame; its source names file and frame number; the end is EndOfFootage."""
    camera = open_camera(VideoCameraSettings(kind="video", path=video))
    shots = [camera.grab(1.0) for _ in REDS]
    assert all(shot.image.shape == (48, 64, 3) and shot.image.dtype == np.uint8 for shot in shots)
    colours = np.array([shot.image.reshape(-1, 3).mean(axis=0) for shot in shots])
    assert np.abs(colours - [(red, 60, 10) for red in REDS]).max() < 8
    assert [shot.source for shot in shots] == [f"{video}#{number}" for number in range(3)]
    with pytest.raises(EndOfFootage, match="no further frame after 3"):
        camera.grab(1.0)
    camera.close()
    with pytest.raises(CameraError, match="closed"):
        camera.grab(1.0)


def test_a_frame_once_handed_over_is_not_written_again(video: Path) -> None:
    """The receiver owns the image: later grabs leave it alone."""
    camera = open_camera(VideoCameraSettings(kind="video", path=video))
    first = camera.grab(1.0).image
    kept = first.copy()
    camera.grab(1.0)
    assert np.array_equal(first, kept)
    camera.close()


def test_with_loop_the_first_frame_follows_the_last(video: Path) -> None:
    """`loop` opens the file again."""
    camera = open_camera(VideoCameraSettings(kind="video", path=video, loop=True))
    numbers = [camera.grab(1.0).source.rsplit("#", 1)[1] for _ in range(7)]
    assert numbers == ["0", "1", "2", "0", "1", "2", "0"]
    camera.close()


def test_a_live_source_gives_rgb_frames_and_is_lost_at_its_end(video: Path) -> None:
    """Each image once, in order; then CameraLost, at once and again."""
    camera = open_camera(OpenCvCameraSettings(kind="opencv", source=str(video), exposure_us=250), every_image=True)
    shots = [camera.grab(20.0) for _ in REDS]
    assert np.abs([int(shot.image[5, 5, 0]) - red for shot, red in zip(shots, REDS, strict=True)]).max() < 8
    assert shots[0].exposure_us == 250
    assert shots[0].source == f"opencv:{video}"
    for _ in range(2):
        with pytest.raises(CameraLost, match="lost, the device failed 5 times"):
            camera.grab(20.0)
    camera.close()
    camera.close()


@pytest.mark.parametrize("kind", ["video", "opencv"])
def test_a_stream_that_changes_its_size_is_scaled_by_ffmpeg_and_the_pages_say_so(tmp_path: Path, kind: str) -> None:
    """FFmpeg scales later images to the size of the first, and nothing tells it: `fixed_size` cannot refuse them."""
    path = tmp_path / "changes.ts"
    for width_px, height_px in ((64, 48), (128, 64)):
        piece = tmp_path / f"{width_px}.ts"
        writer = cv2.VideoWriter(str(piece), cv2.VideoWriter.fourcc(*"mpg2"), 25, (width_px, height_px))
        assert writer.isOpened()
        for _ in range(3):
            writer.write(np.full((height_px, width_px, 3), width_px, np.uint8))
        writer.release()
        with path.open("ab") as whole:
            whole.write(piece.read_bytes())
    settings: VideoCameraSettings | OpenCvCameraSettings
    if kind == "video":
        settings = VideoCameraSettings(kind="video", path=path)
    else:
        settings = OpenCvCameraSettings(kind="opencv", source=str(path))
    camera = open_camera(settings, every_image=True)
    images = []
    with suppress(EndOfFootage, CameraLost):
        while True:
            images.append(camera.grab(20.0).image)
    camera.close()
    assert {image.shape for image in images} == {(48, 64, 3)}
    assert [image.mean() for image in images if image.mean() > 100]  # those of the other size are among them
    described = type(settings).model_fields["fixed_size"].description or ""
    assert "FFmpeg scales" in described
    (row,) = [line for line in FAULTS.read_text(encoding="utf-8").splitlines() if line.startswith("| other size")]
    assert "FFmpeg scales" in row
