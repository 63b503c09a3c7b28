"""The cameras: order, colours, endings and errors, on real files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from calibration.images import load_image
from inspectd.camera import Camera
from inspectd.camera_sections import (
    FolderCameraSettings,
    OpenCvCameraSettings,
    SimulatedCameraSettings,
    VideoCameraSettings,
)
from inspectd.cameras import open_camera
from inspectd.cameras.decoding import to_image
from inspectd.errors import CameraError, EndOfFootage

RGB = (200, 120, 40)
ORIENTATION_TAG = 0x0112


def solid(value: int | tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """A small picture of one colour, as OpenCV writes it."""
    shape = (20, 30) if isinstance(value, int) else (20, 30, len(value))
    return np.full(shape, value, dtype)


def write(file: Path, picture: np.ndarray) -> None:
    """Write a picture in the format that its name says."""
    assert cv2.imwrite(str(file), picture)


def folder_camera(path: Path, *, loop: bool = False) -> Camera:
    """Open the camera `folder` on a path."""
    return open_camera(FolderCameraSettings(kind="folder", path=path, loop=loop))


def test_folder_images_come_in_natural_name_order_and_then_end(tmp_path: Path) -> None:
    """part_2 comes before part_10, other files are left out, and the end is EndOfFootage each time."""
    for name, level in (("part_10.png", 10), ("part_2.png", 2), ("Part_1.PNG", 1)):
        write(tmp_path / name, solid(level))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    camera = folder_camera(tmp_path)
    shots = [camera.grab(1.0) for _ in range(3)]
    assert [int(shot.image[0, 0, 0]) for shot in shots] == [1, 2, 10]
    assert [Path(shot.source).name for shot in shots] == ["Part_1.PNG", "part_2.png", "part_10.png"]
    for _ in range(2):
        with pytest.raises(EndOfFootage, match="no further image"):
            camera.grab(1.0)


def test_folder_starts_over_where_loop_is_set(tmp_path: Path) -> None:
    """With `loop` the first image follows the last."""
    write(tmp_path / "a.png", solid(1))
    write(tmp_path / "b.png", solid(2))
    camera = folder_camera(tmp_path, loop=True)
    assert [int(camera.grab(1.0).image[0, 0, 0]) for _ in range(5)] == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("damage", [b"", b"this is text", None])
def test_a_corrupt_image_is_named_and_the_next_grab_goes_on(tmp_path: Path, damage: bytes | None) -> None:
    """Empty, not an image, cut off half-way: one line with the file's name, and the file after it is read."""
    write(tmp_path / "1.png", solid(1))
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))[1].tobytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    write(tmp_path / "3.png", solid(3))
    camera = folder_camera(tmp_path)
    assert camera.grab(1.0).image[0, 0, 0] == 1
    why = "damaged image: its end is missing" if damage is None else "is no image of a kind that is read"
    with pytest.raises(CameraError, match=rf"2\.jpg: {why}") as error:
        camera.grab(1.0)
    assert not isinstance(error.value, EndOfFootage)
    assert camera.grab(1.0).image[0, 0, 0] == 3


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("bgr.png", solid(RGB[::-1]), RGB),
        ("grey.png", solid(77), (77, 77, 77)),
        ("deep.png", solid(0x4D12, np.uint16), (0x4D12, 0x4D12, 0x4D12)),
        ("deep_colour.tif", solid((0x2800, 0x7800, 0xC800), np.uint16), (0xC800, 0x7800, 0x2800)),
        ("opaque.png", solid((*RGB[::-1], 255)), RGB),
        ("transparent.png", solid((*RGB[::-1], 0)), (0, 0, 0)),
        ("half_transparent.png", solid((*RGB[::-1], 51)), (40, 24, 8)),
        ("lossless.bmp", solid(RGB[::-1]), RGB),
    ],
)
def test_pictures_of_any_kind_become_rgb_as_deep_as_they_are(
    tmp_path: Path, name: str, picture: np.ndarray, expected: tuple[int, int, int]
) -> None:
    """Grey, 16-bit and alpha pictures arrive as (H, W, 3) in RGB order, uint8 or uint16."""
    write(tmp_path / name, picture)
    image = folder_camera(tmp_path).grab(1.0).image
    assert image.shape == (20, 30, 3)
    assert image.dtype == picture.dtype
    assert tuple(image[5, 5].tolist()) == expected


@pytest.mark.parametrize(("suffix", "turned"), [("jpg", True), ("tiff", True), ("png", False), ("webp", False)])
def test_a_turned_photograph_is_read_as_calibration_reads_it(tmp_path: Path, suffix: str, turned: bool) -> None:
    """Where the EXIF tag says "turn me", both do or neither does: a part arrives as the good parts were learnt."""
    exif = PillowImage.Exif()
    exif[ORIENTATION_TAG] = 6
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24] = RGB
    file = tmp_path / f"photograph.{suffix}"
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    PillowImage.fromarray(picture).save(file, exif=exif, **options)
    seen, learned = folder_camera(tmp_path).grab(1.0).image, load_image(file)
    assert seen.shape == learned.shape == ((48, 32, 3) if turned else (32, 48, 3))
    assert np.array_equal(seen, learned)


def test_float_pictures_are_taken_as_0_to_1_and_other_types_are_refused() -> None:
    """Values beyond the range are clipped, NaN is black, int32 and five channels are a CameraError that says where."""
    picture = np.array([[0.0, 0.5, 2.0, np.nan]], np.float32)
    assert to_image(picture, "camera 0")[0, :, 0].tolist() == [0, 128, 255, 0]
    with pytest.raises(CameraError, match=r"camera 0: .*int32"):
        to_image(np.zeros((4, 4), np.int32), "camera 0")
    with pytest.raises(CameraError, match=r"camera 0: .*shape"):
        to_image(np.zeros((4, 4, 5), np.uint8), "camera 0")


def test_folders_that_cannot_be_used_are_one_clear_line(tmp_path: Path) -> None:
    """Missing, a file, or without images: CameraError that names the folder and says what is wrong."""
    with pytest.raises(CameraError, match="No such file"):
        folder_camera(tmp_path / "none")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(CameraError, match="Not a directory"):
        folder_camera(tmp_path / "file.txt")
    with pytest.raises(CameraError, match="holds no image"):
        folder_camera(tmp_path)


def test_videos_that_cannot_be_used_are_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Missing, or no video: CameraError, and nothing of OpenCV's or FFmpeg's own on standard error."""
    with pytest.raises(CameraError, match="no such video file"):
        open_camera(VideoCameraSettings(kind="video", path=tmp_path / "none.avi"))
    for name in ("text.avi", "text.mp4"):
        (tmp_path / name).write_bytes(b"no video" * 500)
        with pytest.raises(CameraError, match="no video that OpenCV can read"):
            open_camera(VideoCameraSettings(kind="video", path=tmp_path / name))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("source", ["63", "/dev/video63", "rtsp://127.0.0.1:1/none"])
def test_a_device_or_stream_that_is_not_there_is_one_clear_line(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    """CameraError that names the source, and no native log on standard error."""
    with pytest.raises(CameraError, match=f"camera {source}: cannot be opened"):
        open_camera(OpenCvCameraSettings(kind="opencv", source=source))
    assert capfd.readouterr().err == ""


def test_the_simulated_camera_repeats_its_pool_and_shares_read_only_images() -> None:
    """After `pool` parts the same arrays come again; nobody can write to them; labels say what was drawn."""
    settings = SimulatedCameraSettings(kind="simulated", seed=5, pool=12, defect_share=0.5)
    camera = open_camera(settings)
    first, second = ([camera.grab(0.0) for _ in range(12)] for _ in range(2))
    assert all(one.image is two.image for one, two in zip(first, second, strict=True))
    assert len({shot.source for shot in first}) == 12
    assert {shot.label == "good" for shot in first} == {True, False}
    assert all(shot.source.endswith("px") == (shot.label != "good") for shot in first)
    with pytest.raises(ValueError, match="read-only"):
        first[0].image[0, 0, 0] = 1
    assert first[1].captured_ns >= first[0].captured_ns > 0


def test_simulated_cameras_of_one_seed_agree_whatever_their_pool() -> None:
    """Part i does not depend on how many parts are drawn."""
    small, large = (
        open_camera(SimulatedCameraSettings(kind="simulated", seed=2, pool=pool, defect_share=0.4)) for pool in (3, 5)
    )
    for _ in range(3):
        one, two = small.grab(0.0), large.grab(0.0)
        assert (one.source, one.label) == (two.source, two.label)
        assert np.array_equal(one.image, two.image)


def test_without_a_defect_share_every_part_is_good() -> None:
    """defect_share 0 is a line of good parts, which is what calibration records."""
    camera = open_camera(SimulatedCameraSettings(kind="simulated", seed=3, pool=20))
    assert {camera.grab(0.0).label for _ in range(20)} == {"good"}


def test_closing_twice_is_fine_and_grabbing_afterwards_is_a_camera_error(tmp_path: Path) -> None:
    """A closed camera says so."""
    write(tmp_path / "a.png", solid(1))
    for camera in (folder_camera(tmp_path), open_camera(SimulatedCameraSettings(kind="simulated", pool=1))):
        camera.close()
        camera.close()
        with pytest.raises(CameraError, match="closed"):
            camera.grab(0.1)
