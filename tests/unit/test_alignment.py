"""A part is learnt from good frames, found again at any pose to a fraction of a pixel, and told from what it is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from locating.drawn_parts import (
    BRACKET,
    BRIGHT_GROUND,
    SIDE,
    Look,
    Pose,
    add_bracket,
    bracket,
    broken,
    circle,
    empty,
    finished,
    paint,
    random_pose,
    shape,
    two,
    winged,
)
from numpy.typing import NDArray

from calibration.errors import TooFewParts
from calibration.part_scene import NoPartSeen
from calibration.part_template import LearntPart, learn_part_template
from engines.alignment import Aligner, Alignment, Misaligned, load_template, save_template
from engines.errors import BundleError

FRAMES = 24
Draw = Callable[[Pose, int], NDArray[np.uint8]]
LOOKS = {"dark ground": Look(), "bright ground": BRIGHT_GROUND, "blotches": Look(texture=8, noise=4)}
MIDDLE = (SIDE - 1) / 2


def learn(draw: Draw, *, count: int = FRAMES, **spread: float) -> LearntPart:
    """From frames that `draw` makes of random poses."""
    return learn_part_template([partial(draw, random_pose(seed, **spread), seed) for seed in range(count)])


@cache
def learnt(look: str = "dark ground", growth: float = 0.0) -> LearntPart:
    """The bracket, turned by any angle."""
    return learn(lambda pose, seed: bracket(pose, LOOKS[look], seed), growth=growth)


def _to_frame(found: Alignment) -> NDArray[np.float64]:
    return np.vstack([found.matrix, [0, 0, 1]])


def _true_matrix(pose: Pose) -> NDArray[np.float64]:
    origin, right, down = pose.to_frame([(0, 0), (1, 0), (0, 1)])
    return np.vstack([np.column_stack([right - origin, down - origin, origin]), [0, 0, 1]])


def errors(aligner: Aligner, frames: Sequence[tuple[Pose, NDArray[np.uint8]]]) -> tuple[float, float]:
    """The largest error of any corner in pixels, and of any turn in degrees.

    The template's own pose on the part is taken from all frames: what is asked is that it is the same in each.
    """
    found = [_to_frame(aligner.align(frame)) for _, frame in frames]
    true = [_true_matrix(pose) for pose, _ in frames]
    offset = np.median([np.linalg.inv(a) @ b for a, b in zip(found, true, strict=True)], axis=0)
    corners = np.column_stack([BRACKET, np.ones(len(BRACKET))]).T
    pixels, turns = [], []
    for a, b in zip(found, true, strict=True):
        pixels.append(float(np.hypot(*((a @ offset - b) @ corners)[:2]).max()))
        turn = np.linalg.inv(b) @ a @ offset
        turns.append(abs(math.degrees(math.atan2(turn[1, 0], turn[0, 0]))))
    return max(pixels), max(turns)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("growth", [0.0, 0.12])
def test_the_pose_is_right_to_a_fraction_of_a_pixel(look: str, growth: float) -> None:
    """At any angle, place and scale seen before, on dark, bright and blotched ground."""
    aligner = Aligner(learnt(look, growth).template)
    poses = [(random_pose(seed, growth=0.9 * growth), seed) for seed in range(500, 530)]
    pixels, turn = errors(aligner, [(pose, bracket(pose, LOOKS[look], seed)) for pose, seed in poses])
    assert pixels < 0.6
    assert turn < 0.25


@pytest.mark.parametrize("light", [0.6, 1.4])
def test_light_that_changes_moves_no_pose(light: float) -> None:
    """Four tenths less or more light, as of a lamp that ages."""
    poses = [(random_pose(seed), seed) for seed in range(600, 615)]
    frames = [(pose, bracket(pose, Look(light=light), seed)) for pose, seed in poses]
    pixels, turn = errors(Aligner(learnt().template), frames)
    assert pixels < 0.6
    assert turn < 0.25


def test_light_that_slopes_moves_no_pose() -> None:
    """A frame lit from one side, on a ground learnt without."""
    poses = [(random_pose(seed), seed) for seed in range(600, 615)]
    frames = [(pose, bracket(pose, Look(slope=12), seed)) for pose, seed in poses]
    assert errors(Aligner(learnt().template), frames)[0] < 0.6


@pytest.mark.parametrize(
    ("wings", "mark", "symmetry"), [(2, 0, 2), (3, 0, 3), (4, 0, 4), (6, 0, 6), (0, 0, 0), (0, 9, 1), (4, 6, 1)]
)
def test_the_symmetry_is_seen(wings: int, mark: float, symmetry: int) -> None:
    """Of winged nuts, of a washer, and that a mark breaks it."""
    found = learn(lambda pose, seed: winged(wings, pose, seed=seed, mark=mark)).template
    assert found.symmetry == symmetry
    assert found.turn_deg == (180 / symmetry if symmetry else 0)


def test_what_is_learnt_is_said() -> None:
    """Moving, turning, symmetry and scale, in words for a person."""
    assert any("any angle" in line for line in learnt().words)
    assert any("moves in the frame" in line for line in learnt().words)
    assert any("scale is fixed" in line for line in learnt().words)
    assert any("scale varies" in line for line in learnt(growth=0.12).words)
    still = learn(lambda pose, seed: winged(3, pose, seed=seed), turn=0.2, shift=0.2)
    assert any("does not move" in line for line in still.words)
    assert any("does not turn; a turn by 120 degrees looks the same" in line for line in still.words)
    little = learn(lambda pose, seed: bracket(pose, seed=seed), turn=6, shift=3)
    assert 6 < little.template.turn_deg < 15
    assert any("turns a little" in line for line in little.words)


def test_a_part_that_lies_in_one_pose_stays_as_the_camera_shows_it() -> None:
    """Its canonical pose is the usual one of the good frames; a part that turns is laid level."""
    still = learn(
        lambda pose, seed: bracket(Pose(x=pose.x, y=pose.y, angle_deg=40 + pose.angle_deg), seed=seed), turn=1
    )
    found = Aligner(still.template).align(bracket(Pose(x=MIDDLE, y=MIDDLE, angle_deg=40)))
    assert abs(found.angle_deg) < 0.5
    columns = np.ptp(np.nonzero(learnt().template.mask)[1])
    assert columns > np.ptp(np.nonzero(learnt().template.mask)[0])


@pytest.mark.parametrize("from_px", [-26, 14])
def test_a_broken_part_is_aligned_by_what_is_left_of_it(from_px: float) -> None:
    """It must come to its verdict by its score: nothing says other_part, and what is left lies near its place."""
    aligner = Aligner(learnt().template)
    for seed in range(700, 712):
        pose = random_pose(seed)
        whole, part = aligner.align(bracket(pose, seed=seed)), aligner.align(broken(pose, seed=seed, from_px=from_px))
        assert abs((part.angle_deg - whole.angle_deg + 180) % 360 - 180) < 2
        assert math.hypot(part.x - whole.x, part.y - whole.y) < 5


def _ring() -> NDArray[np.uint8]:
    canvas = empty(Look(), 0)
    paint(canvas, Pose(x=MIDDLE, y=MIDDLE).to_frame(circle(0, 0, 92)), Look().part)
    paint(canvas, Pose(x=MIDDLE, y=MIDDLE).to_frame(circle(0, 0, 78)), Look().ground)
    return finished(canvas, Look(), 0)


FAULTS = {
    "nothing": (lambda: finished(empty(Look(), 0), Look(), 0), "no_part"),
    "a screw": (lambda: shape([(-8, -8), (8, -8), (8, 8), (-8, 8)]), "no_part"),
    "two": (lambda: two(Pose(x=75, y=60), Pose(x=160, y=170)), "several_parts"),
    "two that touch": (lambda: two(Pose(x=80, y=90), Pose(x=155, y=150)), "several_parts"),
    "half": (lambda: bracket(Pose(x=0, y=MIDDLE)), "part_cut_off"),
    "a fifth missing": (lambda: bracket(Pose(x=36, y=MIDDLE)), "part_cut_off"),
    "a corner in view": (lambda: bracket(Pose(x=-34, y=10)), "part_cut_off"),
    "a rod": (lambda: shape([(-90, -8), (90, -8), (90, 8), (-90, 8)]), "other_part"),
    "a ring": (_ring, "other_part"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_is_not_one_whole_learnt_part_is_a_fault(what: str) -> None:
    """Each with its own reason."""
    frame, fault = FAULTS[what]
    with pytest.raises(Misaligned) as caught:
        Aligner(learnt().template).align(frame())
    assert caught.value.fault == fault
    assert "\n" not in caught.value.detail


def test_dirt_beside_a_part_changes_nothing() -> None:
    """A crumb on the belt and a streak at the frame's edge are no second part, and cut nothing off."""
    pose = Pose(x=MIDDLE, y=MIDDLE, angle_deg=25)
    canvas = empty(Look(), 3)
    add_bracket(canvas, pose, Look())
    paint(canvas, Pose(x=30, y=200).to_frame(circle(0, 0, 8)), Look().part)
    paint(canvas, Pose(x=0, y=40).to_frame(circle(0, 0, 9)), Look().part)
    found = Aligner(learnt().template).align(finished(canvas, Look(), 3))
    clean = Aligner(learnt().template).align(bracket(pose, seed=3))
    assert math.hypot(found.x - clean.x, found.y - clean.y) < 0.3


def test_a_small_part_is_found_in_a_large_frame() -> None:
    """Where the frame has many times the part's size, which is then cut out before it is fitted."""

    def placed(pose: Pose, seed: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([seed, 7])
        wide = np.clip(rng.normal(44, 3, (480, 640, 3)), 0, 255).astype(np.uint8)
        row, column = rng.integers(0, 480 - SIDE), rng.integers(0, 640 - SIDE)
        wide[row : row + SIDE, column : column + SIDE] = bracket(
            pose, Look(ground=(44, 44, 44), hole=(44, 44, 44), texture=0), seed
        )
        places[seed] = (column, row)
        return wide

    places: dict[int, tuple[int, int]] = {}
    template = learn(placed).template
    poses = [(random_pose(seed), seed) for seed in range(800, 812)]
    frames = [placed(pose, seed) for pose, seed in poses]
    moved = [
        Pose(x=pose.x + places[seed][0], y=pose.y + places[seed][1], angle_deg=pose.angle_deg) for pose, seed in poses
    ]
    pixels, turn = errors(Aligner(template), list(zip(moved, frames, strict=True)))
    assert pixels < 0.6
    assert turn < 0.25


def test_learning_and_aligning_repeat_themselves_bit_by_bit(tmp_path: Path) -> None:
    """The same good frames give the same file, and the same frame the same pose: nothing is drawn by chance."""
    paths = [tmp_path / name for name in ("a.npz", "b.npz")]
    for path in paths:
        save_template(learn(lambda pose, seed: bracket(pose, seed=seed)).template, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    frame = bracket(random_pose(900), seed=900)
    first, second = (Aligner(load_template(path)).align(frame) for path in paths)
    assert first.matrix.tobytes() == second.matrix.tobytes()
    assert first.score == second.score


def test_a_stored_template_finds_the_same_pose(tmp_path: Path) -> None:
    """What the daemon loads is what calibration used."""
    save_template(learnt().template, tmp_path / "locate.npz")
    frame = bracket(random_pose(901), seed=901)
    stored = Aligner(load_template(tmp_path / "locate.npz")).align(frame)
    assert stored.matrix.tobytes() == Aligner(learnt().template).align(frame).matrix.tobytes()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _other_numbers(path: Path, **changes: object) -> None:
    with np.load(path) as stored:
        arrays = {**stored, **{name: np.asarray(value) for name, value in changes.items()}}
    with path.open("wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda path: path.write_bytes(b"no template"),
        partial(_other_numbers, frame_px=0.0),
        partial(_other_numbers, level=np.nan),
        partial(_other_numbers, symmetry=-1),
        partial(_other_numbers, mask=np.zeros((96, 96), np.bool_)),
        partial(_other_numbers, image=np.zeros((4, 4, 3), np.float32)),
        partial(_other_numbers, ground=np.full((8, 8, 3), np.inf, np.float32)),
        partial(_other_numbers, shift_px=1.0),
    ],
)
def test_a_damaged_template_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Whatever is wrong with the file, the daemon says so instead of ending with a traceback."""
    path = tmp_path / "locate.npz"
    save_template(learnt().template, path)
    damage(path)
    with pytest.raises(BundleError, match=r"locate\.npz: is no part template") as caught:
        load_template(path)
    assert "\n" not in str(caught.value)


def _surface(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE, 3)), (0, 0), 4)
    return np.clip(128 + 300 * grain, 0, 255).astype(np.uint8)


def _scattered(seed: int) -> NDArray[np.uint8]:
    canvas = empty(Look(), seed)
    rng = np.random.default_rng([seed, 8])
    for _ in range(9):
        paint(canvas, Pose(x=rng.uniform(20, 220), y=rng.uniform(20, 220)).to_frame(circle(0, 0, 12)), Look().part)
    return finished(canvas, Look(), seed)


def _all_sorts(seed: int) -> NDArray[np.uint8]:
    draws = (
        lambda pose: bracket(pose, seed=seed),
        lambda pose: winged(5, pose, seed=seed),
        lambda pose: shape([(-95, -6), (95, -6), (95, 6), (-95, 6)]),
    )
    return draws[seed % 3](random_pose(seed))


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (_surface, "nothing of a part's size stands out"),
        (lambda seed: finished(empty(Look(), seed), Look(), seed), "nothing of a part's size"),
        (_scattered, "many areas stand out"),
        (_all_sorts, "another size in each frame|no part like the others|do not resemble each other"),
        (lambda seed: bracket(random_pose(seed))[: SIDE - seed], "of another size than the first one"),
    ],
)
def test_frames_without_one_part_before_a_background_are_refused_in_words(
    draw: Callable[[int], NDArray[np.uint8]], why: str
) -> None:
    """Surfaces, empty belts, heaps and mixtures: what was seen instead is said."""
    with pytest.raises(NoPartSeen, match=why):
        learn_part_template([partial(draw, seed) for seed in range(FRAMES)])


def test_too_few_good_parts_say_how_many_are_needed() -> None:
    """Three frames are no start."""
    with pytest.raises(TooFewParts, match="at least 16"):
        learn(lambda pose, seed: bracket(pose, seed=seed), count=3)
