"""What a survey of good parts says of drawn sets whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from locating.drawn_parts import (
    BRIGHT_GROUND,
    Look,
    Pose,
    add_bracket,
    bracket,
    empty,
    finished,
    paint,
    random_pose,
    winged,
)

from calibration.errors import DataError, TooFewParts
from calibration.survey import Picture, Survey, survey
from inspectd.auto_station import choose

Image = NDArray[np.uint8]


def surveyed(images: Sequence[Image]) -> Survey:
    """The survey of pictures that lie in memory."""
    return survey([Picture(f"{number:03d}.png", lambda image=image: image) for number, image in enumerate(images)])


def weave(seed: int, side: int = 160) -> Image:
    """(side, side, 3) uint8: blotched cloth that goes on beyond the frame."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), 2)
    return np.clip(120 + 60 * grain[..., None] * (1.0, 0.9, 0.7), 0, 255).astype(np.uint8)


def still(seed: int, look: Look | None = None) -> Image:
    """A part that fills its frame and lies nearly as all others do."""
    image = bracket(random_pose(seed, turn=1.0, shift=1.0), look, seed)
    return np.ascontiguousarray(image[40:200, 40:200])


def shots_of_one_part(part: int, shots: int) -> list[Image]:
    """What a camera takes of one part, with marks of its own, that moves on a little; each time with other noise."""
    rng = np.random.default_rng([part, 9])
    marks = [(rng.uniform(-50, 40, 2), rng.uniform(0, np.pi), rng.uniform(-25, 25)) for _ in range(12)]
    found = []
    for shot in range(shots):
        pose = random_pose(part)
        pose = replace(pose, x=pose.x + 0.6 * shot)
        canvas = empty(Look(), part)
        add_bracket(canvas, pose, Look())
        for middle, turn, change in marks:
            along, across = 7 * np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
            corners = np.array([middle - along, middle + across, middle + along, middle - across])
            paint(canvas, pose.to_frame(corners), np.array(Look().part) + change)
        found.append(finished(canvas, Look(), 100 * part + shot))
    return found


def test_cloth_is_a_surface_and_its_frame_is_taken_as_it_is() -> None:
    """Nothing has a place of its own, so nothing is aligned."""
    seen = surveyed([weave(seed) for seed in range(24)])
    assert seen.is_surface
    assert not seen.grey
    assert any("surface" in words for words in seen.words)
    assert choose(seen).locate == "off"
    assert choose(seen).region == "surface"


def test_a_part_that_lies_still_and_fills_its_frame_is_not_aligned() -> None:
    """It is seen to stand out, not to turn, and its frame is taken as it is."""
    seen = surveyed([still(seed) for seed in range(24)])
    assert seen.template is not None
    assert not seen.is_surface
    assert seen.turned_deg < 3
    assert seen.filled_share > 0.8
    assert choose(seen).locate == "off"


@pytest.mark.parametrize(
    ("images", "cause"),
    [
        ([bracket(random_pose(seed), BRIGHT_GROUND, seed) for seed in range(24)], "turns by more than 10"),
        ([bracket(random_pose(seed, turn=0, shift=35), None, seed) for seed in range(24)], "moves by more than 5%"),
        ([bracket(Pose(x=119, y=119, scale=0.7), None, seed) for seed in range(24)], "fills less than 80%"),
        (
            [winged(0, Pose(x=119, y=119, scale=1.2 + 0.02 * (seed % 8)), None, seed) for seed in range(24)],
            "scale varies by more than 10%",
        ),
    ],
    ids=["turning", "moving", "small", "growing"],
)
def test_a_part_that_lies_otherwise_is_aligned_and_the_cause_is_named(images: list[Image], cause: str) -> None:
    """Each cause by itself is enough, and the reason names it."""
    choice = choose(surveyed(images))
    assert choice.locate == "part"
    assert cause in choice.reasons[0]


def test_bursts_are_told_from_parts_that_merely_look_alike() -> None:
    """Five shots of each of eight parts are eight parts; forty parts, each taken once, are forty."""
    shots = [image for part in range(8) for image in shots_of_one_part(part, 5)]
    seen = surveyed(shots)
    assert seen.parts == 8
    assert all(len({int(name[:3]) // 5 for name in burst}) == 1 for burst in seen.bursts)
    assert any("limits promise too much" in warning for warning in seen.warnings)
    single = surveyed([shots_of_one_part(part, 1)[0] for part in range(40)])
    assert single.bursts == ()
    assert single.parts == 40
    assert surveyed([bracket(random_pose(part), None, part) for part in range(24)]).bursts == ()
    assert surveyed([still(part) for part in range(24)]).bursts == ()


def test_copies_of_a_file_are_counted() -> None:
    """Exact copies are no parts of their own."""
    images = [weave(seed) for seed in range(20)]
    seen = surveyed([*images, images[3], images[3]])
    assert (seen.repeated, seen.parts) == (2, 20)
    assert any("2 pictures repeat" in warning for warning in seen.warnings)


def test_grey_dark_and_few_are_said() -> None:
    """A grey camera, too little light and too few parts are each told of."""
    seen = surveyed([np.repeat(weave(seed)[..., :1] // 9, 3, axis=2) for seed in range(6)])
    assert seen.grey
    assert "6 good pictures, 160x160 pixels each, grey" in seen.words
    assert any("dark" in warning for warning in seen.warnings)
    assert any("6 different parts are few" in warning for warning in seen.warnings)


def test_pictures_of_other_sizes_are_warned_of_and_tiny_ones_do_no_harm() -> None:
    """A set whose sizes differ can still be learnt; pictures of a few pixels have no detail to lose."""
    sides = (150, 160, 170)
    seen = surveyed([weave(seed, sides[seed % 3]) for seed in range(9)])
    assert seen.least_px == (150, 150)
    assert seen.largest_px == (170, 170)
    assert any("not all of one size" in warning for warning in seen.warnings)
    tiny = surveyed([weave(seed, 20) for seed in range(9)])
    assert choose(tiny).canvas.height_px == 256


def test_what_cannot_be_learnt_from_is_refused() -> None:
    """Four parts, one picture many times over, and two cameras' pictures each end with a line of their own."""
    with pytest.raises(TooFewParts, match="4 different pictures"):
        surveyed([weave(seed) for seed in range(4)])
    with pytest.raises(DataError, match="all 30 pictures are the same"):
        surveyed([weave(1)] * 30)
    grey = [np.repeat(weave(seed)[..., :1], 3, axis=2) for seed in range(5)]
    with pytest.raises(DataError, match="5 of 10 pictures are grey"):
        surveyed([*grey, *(weave(seed) for seed in range(10, 15))])


def large(seed: int, finest_px: float, noise: float = 1.0) -> Image:
    """(1024, 1024, 3) uint8: a surface whose finest detail is so fine, as a camera with some noise sees it."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (1024, 1024)).astype(np.float32), (0, 0), finest_px)
    grain *= 25 / grain.std()
    return np.repeat(np.clip(120 + grain + rng.normal(0, noise, grain.shape), 0, 255).astype(np.uint8)[..., None], 3, 2)


def test_a_larger_canvas_is_chosen_only_where_detail_is_lost() -> None:
    """Of three large frames: fine detail wants 512, coarse detail does not, nor does a camera's noise."""
    fine = choose(surveyed([large(seed, 1.5) for seed in range(5)]))
    assert (fine.canvas.height_px, fine.canvas.width_px) == (512, 512)
    assert "detail would be lost" in fine.reasons[1]
    assert fine.deadline_ms > 50
    for coarse in ([large(seed, 14) for seed in range(5)], [large(seed, 14, noise=12) for seed in range(5)]):
        assert choose(surveyed(coarse)).canvas.height_px == 256


def test_long_frames_get_a_long_canvas() -> None:
    """A strip is not squashed into a square; its canvas has as many pixels as one."""
    strips = [np.tile(weave(seed), (1, 4, 1)) for seed in range(6)]
    canvas = choose(surveyed(strips)).canvas
    assert (canvas.height_px, canvas.width_px) == (128, 512)
