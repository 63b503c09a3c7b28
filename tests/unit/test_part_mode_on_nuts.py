"""Real parts: metal nuts that lie turned by any angle, and moulded figures on white. Skips where they are absent."""

from __future__ import annotations

import math
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.dataset import load_image
from calibration.part_template import LearntPart, learn_part_template
from engines.alignment import Aligner

SHARED = [folder / "shared" / "data" / "objects" for folder in Path(__file__).parents]
OBJECTS = next((folder for folder in SHARED if folder.is_dir()), None)
pytestmark = pytest.mark.skipif(OBJECTS is None, reason="shared/data/objects is absent")
LEARNT_FROM = 39


def _files(name: str, *steps: str) -> list[Path]:
    assert OBJECTS is not None
    return sorted(OBJECTS.joinpath(name, *steps).iterdir())


@cache
def _learnt(name: str) -> LearntPart:
    return learn_part_template([partial(load_image, path) for path in _files(name, "train", "good")[:LEARNT_FROM]])


def test_the_nuts_symmetry_is_seen() -> None:
    """Four wings: a quarter turn looks the same, a half turn too; they lie turned by any angle, in nearly one size."""
    template = _learnt("metal_nut").template
    assert (template.symmetry, template.turn_deg) == (4, 45.0)
    assert 0.95 < template.least_scale <= template.largest_scale < 1.05


def test_the_figures_pose_is_seen() -> None:
    """They move and turn a little, and have no symmetry."""
    template = _learnt("toy_figure").template
    assert template.symmetry == 1
    assert template.turn_deg < 15
    assert min(template.shift_px) > 3


@pytest.mark.parametrize("name", ["metal_nut", "toy_figure"])
def test_no_good_part_is_invalid(name: str) -> None:
    """Every good part that learning did not see is located, far above the limit for other parts."""
    aligner, limit = Aligner(_learnt(name).template), _learnt(name).template.least_score
    scores = [aligner.align(load_image(path)).score for path in _files(name, "test", "good")]
    assert min(scores) > limit + 0.2


def test_nuts_that_are_turned_further_are_found_where_they_are() -> None:
    """Turned by a known angle about a known point, the pose follows to a fraction of a pixel."""
    aligner = Aligner(_learnt("metal_nut").template)
    for number, path in enumerate(_files("metal_nut", "test", "good")[:10]):
        frame = load_image(path)
        turn = (37.0 * number) % 360
        matrix = cv2.getRotationMatrix2D((175.5, 175.5), -turn, 1.0)
        matrix[:, 2] += (3.3, -2.7)
        flags = cv2.INTER_CUBIC
        moved = np.asarray(cv2.warpAffine(frame, matrix, (352, 352), flags=flags, borderMode=cv2.BORDER_REPLICATE))
        before, after = aligner.align(frame), aligner.align(moved.astype(np.uint8))
        wanted = matrix @ (before.x, before.y, 1.0)
        assert math.hypot(after.x - wanted[0], after.y - wanted[1]) < 0.3
        assert abs((after.angle_deg - before.angle_deg - turn + 45) % 90 - 45) < 0.2
