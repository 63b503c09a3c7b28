#!/usr/bin/env python3
"""What `locate.mode: part` learns from good frames, shown on a sheet and measured: of a folder, or of drawn parts."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from locating.drawn_parts import (
    BRACKET,
    SIDE,
    Look,
    Pose,
    bracket,
    broken,
    empty,
    finished,
    random_pose,
    scratched,
    shape,
    two,
)
from numpy.typing import NDArray

from calibration.dataset import load_image, read_dataset
from calibration.errors import CalibrationError
from calibration.part_template import LearntPart, learn_part_template
from engines.settings import CanvasSettings
from inspectd.commands.arguments import count
from inspectd.errors import InspectdError
from inspectd.located import LocateFault
from inspectd.messages import Image
from inspectd.part_template import PartLocator
from inspectd.pictures import FONT, INK, write_png

COLUMNS = 6
TILE_PX = 120
GAP_PX, CAPTION_PX = 6, 18
LEARNT_FROM = 40
GROWTH = 0.1
EXAMPLES = """\
examples:
  tools/located.py --sheet sheet.png                        drawn parts: the picture in docs/locate.md
  tools/located.py --measure 300                            drawn parts, whose pose is known: errors and times
  tools/located.py --data footage/nuts --sheet sheet.png    what mode part would make of your own good frames

--data is a folder with good parts as `calibrate` takes it; of a labelled set the test images are shown as well.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, then draw or measure; returns 0, or the exit code of an error that it told in one line."""
    args = _parsed(arguments)
    cv2.setNumThreads(1)  # as the daemon runs
    try:
        return _run(args)
    except (InspectdError, CalibrationError) as error:
        print(f"located: {error}", file=sys.stderr)
        return error.exit_code


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with good parts (default: drawn ones)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw frames and their part images")
    parser.add_argument("--measure", type=count, metavar="N", help="errors and times over N drawn parts")
    args = parser.parse_args(arguments)
    if args.sheet is None and args.measure is None:
        parser.error("give --sheet or --measure")
    if args.measure is not None and args.data is not None:
        parser.error("--measure draws its own parts: their pose must be known")
    return args


def _run(args: argparse.Namespace) -> int:
    learnt, frames = _drawn() if args.data is None else _of_folder(args.data)
    for line in learnt.words:
        print(line)
    template = learnt.template
    print(f"likeness of good parts {template.usual_score:.2f}; other_part below {template.least_score:.2f}")
    if args.sheet is not None:
        write_png(args.sheet, _sheet(learnt, frames))
    if args.measure is not None:
        _measure(args.measure)
    return 0


def _drawn() -> tuple[LearntPart, list[tuple[str, Image]]]:
    learnt = learn_part_template([partial(bracket, random_pose(seed), None, seed) for seed in range(LEARNT_FROM)])
    poses = [random_pose(1000 + seed) for seed in range(COLUMNS)]
    middle = (SIDE - 1) / 2
    frames = [("good", bracket(pose, seed=seed)) for seed, pose in enumerate(poses)]
    frames += [("scratched", scratched(pose, seed=seed)) for seed, pose in enumerate(poses[:3])]
    frames += [("broken", broken(pose, seed=seed)) for seed, pose in enumerate(poses[3:])]
    frames += [
        ("nothing", finished(empty(Look(), 0), Look(), 0)),
        ("two", two(Pose(x=72, y=62), Pose(x=165, y=176, angle_deg=120))),
        ("at the edge", bracket(Pose(x=24, y=middle, angle_deg=30))),
        ("a rod", shape([(-90, -8), (90, -8), (90, 8), (-90, 8)])),
    ]
    return learnt, frames


def _of_folder(folder: Path) -> tuple[LearntPart, list[tuple[str, Image]]]:
    """Raises DataError, TooFewParts, NoPartSeen."""
    found = read_dataset(folder)
    learnt = learn_part_template([partial(load_image, sample.path) for sample in found.good])
    shown = [*found.good[:: max(1, len(found.good) // (2 * COLUMNS))][: 2 * COLUMNS]]
    by_label: dict[str, list[Path]] = {}
    for sample in found.labelled:
        by_label.setdefault(sample.label, []).append(sample.path)
    frames = [("learnt from", load_image(sample.path)) for sample in shown]
    for label, paths in by_label.items():
        frames += [(label, load_image(path)) for path in paths[:: max(1, len(paths) // COLUMNS)][:COLUMNS]]
    return learnt, frames


def _sheet(learnt: LearntPart, frames: Sequence[tuple[str, Image]]) -> Image:
    """Each frame above its part image, or above why there is none; (H, W, 3) uint8 RGB."""
    locator = PartLocator(learnt.template, CanvasSettings(height_px=160, width_px=160))
    cells = [_cell(locator, title, frame) for title, frame in frames]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % COLUMNS)
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    drawn = np.vstack(rows)
    return drawn[: int(np.flatnonzero((drawn < 255).any(axis=(1, 2))).max()) + GAP_PX]


def _cell(locator: PartLocator, title: str, frame: Image) -> Image:
    cell = np.full((2 * (TILE_PX + CAPTION_PX + GAP_PX), TILE_PX + 2 * GAP_PX, 3), 255, np.uint8)
    _put(cell, CAPTION_PX, frame)
    try:
        located = locator.locate(frame, np.empty((160, 160, 3), np.uint8))
        _put(cell, 2 * CAPTION_PX + GAP_PX + TILE_PX, located.part_image)
        under = f"{located.pose.angle_deg:.1f} deg, {located.sure or 0:.2f}"
    except LocateFault as fault:
        under = fault.reason.value
    for text, row in ((title, CAPTION_PX - 5), (under, 2 * CAPTION_PX + GAP_PX + TILE_PX - 5)):
        cv2.putText(cell, text, (GAP_PX, row), FONT, 0.42, INK, 1, cv2.LINE_AA)
    return cell


def _put(cell: Image, top: int, image: Image) -> None:
    """The image at the tile's size, its sides in proportion."""
    size = TILE_PX / max(image.shape[:2])
    height, width = (max(1, round(side * size)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if size < 1 else cv2.INTER_LINEAR)
    cell[top : top + height, GAP_PX : GAP_PX + width] = small


Draw = Callable[[Pose, int], Image]


def _measure(parts: int) -> None:
    """A table: errors of place (any corner of the part), turn and scale, and the time of one part."""
    bright = Look(part=(60, 110, 70), ground=(225, 225, 220), hole=(225, 225, 220), slot=(180, 40, 40))
    plain = Look()
    cases: dict[str, tuple[Draw, Draw, float]] = {
        "any turn": (*_both(plain), 0.0),
        "any turn and scale": (*_both(plain), GROWTH),
        "dark on bright, any turn and scale": (*_both(bright), GROWTH),
        "blotched ground": (*_both(Look(texture=8, noise=4)), 0.0),
        "three tenths less light than learnt": (_both(plain)[0], _both(Look(light=0.7))[0], 0.0),
        "light that slopes by 24 levels": (_both(plain)[0], _both(Look(slope=12))[0], 0.0),
    }
    print("| parts | corner px | turn deg | scale % | ms |\n| --- | ---: | ---: | ---: | ---: |")
    for name, (learnt_from, shown, growth) in cases.items():
        frames = [partial(learnt_from, random_pose(seed, growth=growth), seed) for seed in range(LEARNT_FROM)]
        print(f"| {name} | {_row(learn_part_template(frames), shown, parts, growth)} |")


def _both(look: Look) -> tuple[Draw, Draw]:
    def draw(pose: Pose, seed: int) -> Image:
        return bracket(pose, look, seed)

    return draw, draw


def _row(learnt: LearntPart, draw: Draw, parts: int, growth: float) -> str:
    locator = PartLocator(learnt.template, CanvasSettings())
    out = np.empty((128, 128, 3), np.uint8)
    found, true, times_ms = [], [], []
    for seed in range(10_000, 10_000 + parts):
        pose = random_pose(seed, growth=0.9 * growth)
        frame = draw(pose, seed)
        started_ns = time.monotonic_ns()
        located = locator.locate(frame, out)
        times_ms.append((time.monotonic_ns() - started_ns) / 1e6)
        found.append(np.linalg.inv(np.vstack([located.matrix, [0, 0, 1]])))
        true.append(_matrix(pose))
    offset = np.median([np.linalg.inv(a) @ b for a, b in zip(found, true, strict=True)], axis=0)
    corners = np.column_stack([BRACKET, np.ones(len(BRACKET))]).T
    pixels, turns, scales = [], [], []
    for a, b in zip(found, true, strict=True):
        pixels.append(float(np.hypot(*((a @ offset - b) @ corners)[:2]).max()))
        motion = np.linalg.inv(b) @ a @ offset
        turns.append(abs(math.degrees(math.atan2(motion[1, 0], motion[0, 0]))))
        scales.append(100 * abs(math.hypot(motion[0, 0], motion[1, 0]) - 1))
    columns = [f"{_quantiles(values)}" for values in (pixels, turns, scales)]
    return " | ".join([*columns, f"{np.median(times_ms):.2f}"])


def _matrix(pose: Pose) -> NDArray[np.float64]:
    """(3, 3): part pixels -> frame."""
    origin, right, down = pose.to_frame([(0, 0), (1, 0), (0, 1)])
    return np.vstack([np.column_stack([right - origin, down - origin, origin]), [0, 0, 1]])


def _quantiles(values: Sequence[float]) -> str:
    median, high = np.quantile(values, (0.5, 0.95))
    return f"{median:.2f}, {high:.2f}"


if __name__ == "__main__":
    sys.exit(main())
