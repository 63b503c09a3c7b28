"""Locate: the pose is right to a fraction of a pixel, and what is not one whole part is refused with its reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.settings import CanvasSettings
from inspectd.cameras.capacitor_defects import DefectSpec, DefectType, Severity
from inspectd.cameras.simulated import render_part
from inspectd.locate import Locator
from inspectd.located import Located, LocateFault
from inspectd.messages import Image, Pose, Reason
from inspectd.sections import LocateSettings

Change = Callable[[Image], Image]

LOCATOR = Locator(LocateSettings(), CanvasSettings())


def paint(
    *parts: Pose, body: int = 90, electrode: int = 220, background: int = 20, shape: tuple[int, int] = (480, 640)
) -> Image:
    """Draw plain parts of 110x50 px with 24 px electrodes: nothing of the simulated line's own look."""
    fine = np.full((shape[0] * 4, shape[1] * 4, 3), background, np.uint8)
    for pose in parts:
        turn = np.deg2rad(pose.angle_deg)
        axes = pose.scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        for left, right, level in ((-55, 55, electrode), (-31, 31, body)):
            corners = np.array([[left, -25], [right, -25], [right, 25], [left, 25]]) @ axes.T + (pose.x_px, pose.y_px)
            cv2.fillPoly(fine, [np.rint((corners * 4 + 1.5) * 16).astype(np.int32)], (level,) * 3, shift=4)
    picture = cv2.GaussianBlur(cv2.resize(fine, shape[::-1], interpolation=cv2.INTER_AREA), (0, 0), 0.8)
    noise = np.random.default_rng(0).normal(0, 2, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def pose(x_px: float = 320, y_px: float = 240, angle_deg: float = 0, scale: float = 1) -> Pose:
    """A pose, in the middle of the painted frame unless said otherwise."""
    return Pose(x_px=x_px, y_px=y_px, angle_deg=angle_deg, scale=scale)


def errors(found: Pose, true: Pose) -> tuple[float, float]:
    """(angle error in degrees, centre error in pixels); half a turn makes no difference to a capacitor."""
    angle = abs((found.angle_deg - true.angle_deg + 90) % 180 - 90)
    return angle, float(np.hypot(found.x_px - true.x_px, found.y_px - true.y_px))


def reason_of(image: Image, locator: Locator = LOCATOR) -> Reason:
    """Why locating fails."""
    with pytest.raises(LocateFault) as fault:
        locator.locate(image)
    assert "\n" not in fault.value.detail
    return fault.value.reason


def simulated_errors(count: int, defect: Callable[[int], DefectSpec | None]) -> NDArray[np.float64]:
    """(count, 2) pose errors on simulated parts."""
    parts = [render_part(21, index, defect(index)) for index in range(count)]
    return np.array([errors(LOCATOR.locate(part.image).pose, part.pose) for part in parts])


def test_pose_of_simulated_good_parts_is_right_to_half_a_degree_and_half_a_pixel() -> None:
    """95 % of good parts: angle within 0.5 degrees, centre within 0.5 px of the renderer's truth."""
    angle, centre = np.percentile(simulated_errors(200, lambda index: None), 95, axis=0)
    assert angle < 0.5
    assert centre < 0.5


@pytest.mark.parametrize("kind", DefectType)
def test_defects_do_not_shift_the_pose(kind: DefectType) -> None:
    """The largest and plainest defects of each type: every part found, 95 % of them within 0.5 degrees and 0.5 px."""
    angle, centre = np.percentile(simulated_errors(40, lambda index: DefectSpec(kind, Severity.PLAIN, 15)), 95, axis=0)
    assert angle < 0.5
    assert centre < 0.5


def test_a_defect_hardly_moves_what_the_good_part_of_the_same_seed_gives() -> None:
    """Located with and without its defect, the same part lies at the same place."""
    for index, kind in itertools.product(range(6), DefectType):
        good = LOCATOR.locate(render_part(22, index).image).pose
        bad = LOCATOR.locate(render_part(22, index, DefectSpec(kind, Severity.PLAIN, 15)).image).pose
        angle, centre = errors(bad, good)
        assert angle < 0.2
        assert centre < 0.25


@pytest.mark.parametrize("angle_deg", [-89, -60, -33.3, -5, 0, 12.7, 45, 77, 90])
@pytest.mark.parametrize("scale", [0.72, 1.0, 1.55])
def test_any_rotation_and_scale_of_a_part_that_is_not_simulated(angle_deg: float, scale: float) -> None:
    """Plain painted parts, anywhere in a large frame: angle in (-90, 90], centre and scale as painted."""
    true = pose(301.3, 251.8, angle_deg, scale)
    found = LOCATOR.locate(paint(true)).pose
    angle, centre = errors(found, true)
    assert angle < 0.3
    assert centre < 0.3
    assert -90 < found.angle_deg <= 90
    assert found.scale == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize(
    ("body", "electrode", "background"), [(45, 200, 20), (34, 60, 22), (200, 250, 20), (90, 240, 60), (20, 220, 20)]
)
def test_dark_bodies_weak_light_and_grey_backgrounds(body: int, electrode: int, background: int) -> None:
    """A body close to the background, or as dark as it, stays with its electrodes."""
    true = pose(280, 220, 20)
    found = LOCATOR.locate(paint(true, body=body, electrode=electrode, background=background)).pose
    angle, centre = errors(found, true)
    assert angle < 0.5
    assert centre < 0.5


def uneven_light(image: Image) -> Image:
    """Light that falls off by two thirds across the frame."""
    return (image * np.linspace(1, 0.35, image.shape[1])[None, :, None]).astype(np.uint8)


def sloping_background(image: Image) -> Image:
    """Stray light from one side."""
    return np.clip(image + np.linspace(0, 80, image.shape[1])[None, :, None], 0, 255).astype(np.uint8)


def blurred(image: Image) -> Image:
    """Out of focus by two pixels."""
    return cv2.GaussianBlur(image, (0, 0), 2.0)  # type: ignore[return-value]


def dusty(image: Image) -> Image:
    """Bright specks all over the background."""
    image = image.copy()
    rng = np.random.default_rng(1)
    for x, y in rng.integers(0, (640, 480), (60, 2)).tolist():
        if not (230 < x < 410 and 170 < y < 310):
            cv2.circle(image, (x, y), int(rng.integers(1, 4)), (200, 200, 200), -1)
    return image


def corner_gone(image: Image) -> Image:
    """A corner of 15x15 px of the part is plain background."""
    return cv2.fillPoly(image.copy(), [np.array([[360, 214], [378, 214], [378, 232]])], (20, 20, 20))  # type: ignore[return-value]


def deep_chip(image: Image) -> Image:
    """A bite of 15 px out of the long edge."""
    return cv2.circle(image.copy(), (320, 216), 8, (20, 20, 20), -1)  # type: ignore[return-value]


def end_chipped(image: Image) -> Image:
    """A third of one end is broken off, 7 px deep."""
    return cv2.rectangle(image.copy(), (368, 222), (380, 238), (20, 20, 20), -1)  # type: ignore[return-value]


def end_worn(image: Image) -> Image:
    """Half of one end is worn off, 3 px deep."""
    return cv2.rectangle(image.copy(), (372, 218), (380, 238), (20, 20, 20), -1)  # type: ignore[return-value]


def dust_at_the_edge(image: Image) -> Image:
    """A bright speck that touches the part."""
    return cv2.circle(image.copy(), (330, 212), 4, (210, 210, 210), -1)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "change",
    [uneven_light, sloping_background, blurred, dusty, corner_gone, deep_chip, end_chipped, end_worn, dust_at_the_edge],
)
def test_what_lines_do_to_a_picture_does_not_shift_the_pose(change: Change) -> None:
    """Light, focus, dust and missing material: still within half a degree and half a pixel."""
    true = pose(320, 240, 0)
    angle, centre = errors(LOCATOR.locate(change(paint(true))).pose, true)
    assert angle < 0.5
    assert centre < 0.5


def test_the_part_image_is_canonical_on_black() -> None:
    """110x50 part pixels in the middle of the canvas, whatever the pose and scale; all else is exactly black."""
    for true in (pose(), pose(300, 230, 35, 1.4), pose(330, 260, -80, 0.75)):
        image = LOCATOR.locate(paint(true)).part_image
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        inside = np.zeros((128, 128), bool)
        inside[39:89, 9:119] = True
        assert not image[~inside].any()
        assert np.abs(image[44:84, 14:30].mean() - 220) < 6
        assert np.abs(image[44:84, 98:114].mean() - 220) < 6
        assert np.abs(image[44:84, 40:88].mean() - 90) < 4
        assert image[41:87, 11:117].min() > 60


def test_the_matrix_takes_frame_pixels_to_canvas_pixels() -> None:
    """A mask drawn in the frame lands on the defect; the part's centre lands on the middle of the canvas."""
    part = render_part(5, 2, DefectSpec(DefectType.BODY_STAIN, Severity.PLAIN, 14))
    located = LOCATOR.locate(part.image)
    assert located.matrix.shape == (2, 3)
    assert located.matrix.dtype == np.float64
    assert located.matrix @ (located.pose.x_px, located.pose.y_px, 1) == pytest.approx([63.5, 63.5], abs=1e-6)
    good = cv2.warpAffine(render_part(5, 2).image, located.matrix, (128, 128)).astype(int)
    mask = cv2.warpAffine(part.mask, located.matrix, (128, 128)) > 127
    difference = good.mean(axis=2) - located.part_image.mean(axis=2)
    assert difference[mask].mean() > 15


def test_out_is_written_and_returned_and_old_contents_vanish() -> None:
    """The engine's input buffer can be handed in; a buffer of another shape, type or layout is refused."""
    frame = paint(pose())
    out = np.full((128, 128, 3), 99, np.uint8)
    located = LOCATOR.locate(frame, out)
    assert located.part_image is out
    assert np.array_equal(out, LOCATOR.locate(frame).part_image)
    for unfit in (np.empty((64, 128, 3), np.uint8), np.empty((128, 128, 3)), np.empty((3, 128, 128), np.uint8).T):
        with pytest.raises(ValueError, match="out must be"):
            LOCATOR.locate(frame, unfit)  # type: ignore[arg-type]


def test_the_frame_is_left_as_it_was_and_locating_again_gives_the_same() -> None:
    """A read-only frame can be located, and the result is a function of it alone."""
    frame = render_part(1, 1).image
    frame.setflags(write=False)
    first, again = LOCATOR.locate(frame), LOCATOR.locate(frame)
    assert first.pose == again.pose
    assert np.array_equal(first.part_image, again.part_image)


NOTHING = np.random.default_rng(0).normal(20, 3, (480, 640, 3)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (NOTHING, Reason.NO_PART),
        (paint(pose(scale=0.4)), Reason.NO_PART),
        (paint(pose(scale=2.2)), Reason.NO_PART),
        (paint(pose(150), pose(450)), Reason.SEVERAL_PARTS),
        (paint(pose(150, angle_deg=40), pose(450, 300, -70)), Reason.SEVERAL_PARTS),
        (paint(pose(320, 220), pose(320, 268)), Reason.SEVERAL_PARTS),
        (paint(pose(240), pose(349)), Reason.SEVERAL_PARTS),
        (paint(pose(280), pose(355, 245, 90)), Reason.SEVERAL_PARTS),
        (paint(pose(30)), Reason.PART_CUT_OFF),
        (paint(pose(54)), Reason.PART_CUT_OFF),
        (paint(pose(320, 470, 30)), Reason.PART_CUT_OFF),
        (paint(pose(-35)), Reason.PART_CUT_OFF),
    ],
    ids=[
        "noise", "too small", "too large", "two", "two turned", "side by side", "end to end", "an L",
        "half out", "at the edge", "over the bottom", "a sliver",
    ],
)  # fmt: skip
def test_what_is_not_one_whole_part_is_refused_with_its_reason(image: Image, reason: Reason) -> None:
    """No part, two parts, a cut-off part: a fault, never a guess."""
    assert reason_of(image) is reason


def test_a_single_electrode_or_a_disc_is_no_part() -> None:
    """Bright things of another shape are not taken for a part."""
    disc = cv2.circle(np.full((480, 640, 3), 20, np.uint8), (320, 240), 40, (200, 200, 200), -1)
    square = cv2.rectangle(np.full((480, 640, 3), 20, np.uint8), (280, 200), (350, 270), (200, 200, 200), -1)
    assert reason_of(disc) in {Reason.NO_PART, Reason.SEVERAL_PARTS}  # type: ignore[arg-type]
    assert reason_of(square) in {Reason.NO_PART, Reason.SEVERAL_PARTS}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((480, 640, 3), np.uint8),
        np.full((480, 640, 3), 255, np.uint8),
        np.random.default_rng(0).integers(251, 256, (480, 640, 3)).astype(np.uint8),
        np.zeros((480, 640), np.uint8),
        np.zeros((480, 640, 4), np.uint8),
        np.zeros((480, 640, 3), np.float32),
        np.zeros((0, 640, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        None,
    ],
    ids=["black", "white", "saturated", "grey", "alpha", "float", "empty", "tiny", "none"],
)
@pytest.mark.parametrize("mode", ["bright_part", "off", "part"])
def test_broken_images_are_bad_images(image: Image, mode: str) -> None:
    """What no camera in order delivers is BAD_IMAGE, in every mode."""
    locator = Locator(LocateSettings.model_validate({"mode": mode}), CanvasSettings())
    assert reason_of(image, locator) is Reason.BAD_IMAGE


def test_a_part_turned_further_than_the_station_allows_is_no_part() -> None:
    """max_angle_deg is a limit on both sides."""
    locator = Locator(LocateSettings(max_angle_deg=10), CanvasSettings())
    for angle_deg in (-9.0, 0.0, 9.0):
        locator.locate(paint(pose(angle_deg=angle_deg)))
    for angle_deg in (-11.5, 11.5, 60.0):
        assert reason_of(paint(pose(angle_deg=angle_deg)), locator) is Reason.NO_PART


@pytest.mark.parametrize(("height", "width"), [(512, 512), (300, 700), (100, 120), (256, 256)])
def test_mode_off_resizes_the_whole_frame(height: int, width: int) -> None:
    """Corners stay corners, and the matrix says where each pixel went."""
    locator = Locator(LocateSettings(mode="off"), CanvasSettings(height_px=256, width_px=256))
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2] = (200, 100, 50)
    located = locator.locate(frame)
    assert located.part_image.shape == (256, 256, 3)
    assert located.part_image[60, 60].tolist() == [200, 100, 50]
    assert not located.part_image[140:, 140:].any()
    assert located.matrix @ (-0.5, -0.5, 1) == pytest.approx([-0.5, -0.5])
    assert located.matrix @ (width - 0.5, height - 0.5, 1) == pytest.approx([255.5, 255.5])
    assert located.pose.scale == pytest.approx(np.sqrt(height * width) / 256)


def test_large_frames_of_large_parts_are_averaged_not_sampled() -> None:
    """At three frame pixels a part pixel, fine noise is averaged away in the part image."""
    settings = LocateSettings(min_scale=2.5, max_scale=3.5)
    frame = paint(pose(450, 350, 10, 3.0), shape=(700, 900))
    noisy = np.clip(frame + np.random.default_rng(0).normal(0, 15, frame.shape), 0, 255).astype(np.uint8)
    located: Located = Locator(settings, CanvasSettings()).locate(noisy)
    assert errors(located.pose, pose(450, 350, 10, 3.0))[1] < 0.5
    assert located.part_image[50:78, 45:83].std() < 8
