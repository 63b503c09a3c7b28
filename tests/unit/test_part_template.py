"""`locate.mode: part` on the canvas: the part in one pose whatever the frame, what lies around it, and the faults."""

from __future__ import annotations

import math
from functools import cache, partial

import cv2
import numpy as np
import pytest
from locating.drawn_parts import SIDE, Look, Pose, bracket, empty, finished, random_pose, shape
from numpy.typing import NDArray

from calibration.part_template import learn_part_template
from engines.alignment import PartTemplate
from engines.settings import CanvasSettings
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import Reason
from inspectd.sections import LocateSettings

SETTINGS = LocateSettings(mode="part")
CANVAS = CanvasSettings(height_px=160, width_px=224)
MIDDLE = (SIDE - 1) / 2


@cache
def template(growth: float = 0.0) -> PartTemplate:
    """Of the bracket."""
    frames = [partial(bracket, random_pose(seed, growth=growth), None, seed) for seed in range(24)]
    return learn_part_template(frames).template


def locator(canvas: CanvasSettings = CANVAS, growth: float = 0.0) -> Locator:
    """For the bracket."""
    return Locator(SETTINGS, canvas, template(growth))


def _quiet(pose: Pose, light: float = 1.0) -> NDArray[np.uint8]:
    return bracket(pose, Look(noise=0, texture=0, light=light))


@pytest.mark.parametrize("growth", [0.0, 0.12])
def test_part_images_are_the_same_whatever_the_pose(growth: float) -> None:
    """Turned, moved and nearer parts give one picture: per-place statistics have something to compare."""
    tested = locator(growth=growth)
    images = [
        tested.locate(_quiet(random_pose(seed, growth=0.9 * growth))).part_image.astype(np.float32)
        for seed in range(300, 316)
    ]
    mean = np.mean(images, axis=0)
    differences = [np.abs(image - mean).mean() for image in images]
    assert max(differences) < 1.2
    assert np.abs(images[0] - 46).max() > 90  # and the part is in it


def test_the_part_fills_the_canvas_with_a_margin() -> None:
    """As large as it fits; some background is left on all four sides."""
    image = locator().locate(_quiet(random_pose(3))).part_image
    rows, columns = np.nonzero(np.abs(image.astype(np.int16) - (40, 44, 52)).max(axis=2) > 40)
    margins = [columns.min(), CANVAS.width_px - 1 - columns.max(), rows.min(), CANVAS.height_px - 1 - rows.max()]
    assert min(margins) >= 5
    assert min(margins) <= 0.09 * max(CANVAS.height_px, CANVAS.width_px)


def test_matrix_and_pose_say_where_the_part_lay() -> None:
    """The matrix takes frame to canvas, so that masks can follow; the pose gives place, turn and scale in the frame."""
    tested = locator()
    first, second = (Pose(x=110, y=125, angle_deg=angle) for angle in (10, 47))
    one, two = tested.locate(_quiet(first)), tested.locate(_quiet(second))
    corner = [[*point, 1.0] for point in (first.to_frame([(-60, -34)])[0], second.to_frame([(-60, -34)])[0])]
    assert one.matrix @ corner[0] == pytest.approx(two.matrix @ corner[1], abs=0.6)
    assert (two.pose.angle_deg - one.pose.angle_deg) % 360 == pytest.approx(37, abs=0.3)
    assert one.pose.scale == pytest.approx(1 / math.hypot(*one.matrix[:, 0]), rel=1e-6)
    assert one.sure is not None
    assert one.sure > 0.95


def test_around_the_part_the_frame_is_shown_as_it_is() -> None:
    """Dirt beside the part is there to be judged; beyond the frame's edge its border is repeated, nothing is black."""
    look = Look(noise=0, texture=0, ground=(90, 20, 60), hole=(90, 20, 60))
    frames = [partial(bracket, random_pose(seed), look, seed) for seed in range(24)]
    tested = Locator(SETTINGS, CANVAS, learn_part_template(frames).template)
    image = tested.locate(bracket(Pose(x=84, y=78, angle_deg=45), look)).part_image
    assert np.abs(image[:6, :6].astype(int) - (90, 20, 60)).max() <= 2
    assert image.reshape(-1, 3).min(axis=0)[0] >= 50


def test_a_large_frame_is_averaged_not_sampled() -> None:
    """Where the canvas is much less fine as the frame, noise is averaged away as in other modes."""
    tested = locator(CanvasSettings(height_px=32, width_px=64))
    clean, noisy = (
        tested.locate(bracket(Pose(x=MIDDLE, y=MIDDLE), Look(noise=noise, texture=0))).part_image.astype(np.float64)
        for noise in (0, 12)
    )
    assert (noisy - clean)[4:-4, 8:-8].std() < 6


def test_the_same_buffer_is_written_and_the_same_frame_gives_the_same_bytes() -> None:
    """As the daemon uses it: into the engine's input; and a replay repeats every byte."""
    frame = bracket(random_pose(40), seed=40)
    out = np.full((CANVAS.height_px, CANVAS.width_px, 3), 7, np.uint8)
    located = locator().locate(frame, out)
    assert located.part_image is out
    assert locator().locate(frame).part_image.tobytes() == out.tobytes()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (finished(empty(Look(), 0), Look(), 0), Reason.NO_PART),
        (bracket(Pose(x=20, y=MIDDLE)), Reason.PART_CUT_OFF),
        (np.hstack([bracket(Pose(x=100, y=120)), bracket(Pose(x=120, y=120))]), Reason.SEVERAL_PARTS),
        (shape([(-90, -8), (90, -8), (90, 8), (-90, 8)]), Reason.OTHER_PART),
        (np.full((200, 200, 3), 44, np.uint8), Reason.BAD_IMAGE),
        (cv2.resize(bracket(Pose(x=MIDDLE, y=MIDDLE)), (20, 20)), Reason.NO_PART),
    ],
    ids=["empty", "cut off", "two", "rod", "one grey", "tiny"],
)
def test_faults_have_their_reasons(frame: NDArray[np.uint8], reason: Reason) -> None:
    """What the verdict will say."""
    with pytest.raises(LocateFault) as caught:
        locator().locate(frame)
    assert caught.value.reason is reason


def test_without_a_template_mode_part_says_what_is_missing() -> None:
    """Nothing is located by chance."""
    with pytest.raises(ValueError, match="needs the template of a bundle"):
        Locator(SETTINGS, CANVAS).locate(bracket(random_pose(1)))


def _any_frame(kind: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    frame = bracket(random_pose(int(rng.integers(1000))), seed=int(rng.integers(1000)))
    if kind == 0:
        return rng.integers(0, 256, (int(rng.integers(16, 300)), int(rng.integers(16, 300)), 3)).astype(np.uint8)
    if kind == 1:
        height, width = (int(side) for side in rng.integers(16, SIDE, 2))
        return np.ascontiguousarray(frame[SIDE - height :, SIDE - width :])
    if kind == 2:
        return np.asarray(cv2.resize(frame, (int(rng.integers(16, 900)), int(rng.integers(16, 900)))), np.uint8)
    if kind == 3:
        return np.roll(frame, rng.integers(0, SIDE, 2), (0, 1))
    streak = np.full((int(rng.integers(16, 2000)), int(rng.integers(16, 60)), 3), rng.integers(0, 255), np.uint8)
    streak[: int(rng.integers(1, 16)), : int(rng.integers(1, 16))] = 255
    return streak


@pytest.mark.parametrize("kind", range(5), ids=["noise", "cuts", "sizes", "torn", "strips"])
def test_any_frame_gives_a_part_or_a_reason(kind: int) -> None:
    """Frames of any size and content: never another exception, never a canvas of another shape."""
    tested, rng = locator(), np.random.default_rng(kind)
    for _ in range(30):
        try:
            located = tested.locate(_any_frame(kind, rng))
        except LocateFault:
            continue
        assert located.part_image.shape == (CANVAS.height_px, CANVAS.width_px, 3)
        assert np.isfinite(located.matrix).all()
