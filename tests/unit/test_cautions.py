"""What calibration warns of before a bundle judges any part."""

from __future__ import annotations

import numpy as np
import pytest
from bundle_making import CANVAS, LOCATE, REGIONS
from numpy.typing import NDArray

from calibration.cautions import warnings_of
from engines.artifact import SettingsSnapshot
from engines.settings import EngineSettings, ModelSettings

BRIGHT = {**LOCATE, "mode": "bright_part"}


def snapshot(*, random_teachers: bool = False, locate: dict[str, object] = LOCATE) -> SettingsSnapshot:
    """Settings of a station."""
    model = ModelSettings(random_teachers=random_teachers)
    return SettingsSnapshot(canvas=CANVAS, regions=REGIONS, model=model, locate=locate, engine=EngineSettings())


def bars(shift_px: float) -> NDArray[np.uint8]:
    """40 parts, a bright bar on dark in each, whose place varies by this deviation; and grain."""
    rng = np.random.default_rng(0)
    images = rng.normal(40, 3, (40, 128, 128, 3))
    for image in images:
        top, left = (np.array([40, 24]) + rng.normal(0, shift_px, 2)).round().astype(int)
        image[top : top + 48, left : left + 80] += 120
    return np.clip(images, 0, 255).astype(np.uint8)


def test_untrained_teachers_are_told_of() -> None:
    """Whoever measures what training a teacher is worth must not run the bundle on a line."""
    (warning,) = warnings_of(snapshot(random_teachers=True), bars(0))
    assert "untrained" in warning
    assert warnings_of(snapshot(), bars(0)) == ()


@pytest.mark.parametrize(("shift_px", "told"), [(0, False), (0.5, False), (4, True), (10, True)])
def test_parts_that_move_are_told_of(shift_px: float, told: bool) -> None:
    """With locate off, good parts that lie elsewhere each time: the line says what to do about it."""
    found = warnings_of(snapshot(), bars(shift_px))
    assert len(found) == told
    assert all("move in the frame" in line and "docs/locate.md" in line for line in found)


def test_located_parts_and_textures_do_not_move() -> None:
    """Locate has brought them into one pose; a texture has none to be brought into."""
    assert warnings_of(snapshot(locate=BRIGHT), bars(10)) == ()
    grain = np.random.default_rng(1).integers(0, 256, (40, 128, 128, 3), dtype=np.uint8)
    assert warnings_of(snapshot(), grain) == ()


def test_good_parts_that_could_not_be_judged_are_told_of() -> None:
    """The line rejects their like, whatever rate the limits promise."""
    (warning,) = warnings_of(snapshot(), bars(0), unfit=4)
    assert warning.startswith("4 of 44 images of good parts show no part to judge")


def test_dark_parts_are_told_of() -> None:
    """16 grey levels of 256 say little: calibration would go on without a word."""
    (warning,) = warnings_of(snapshot(), bars(0) // 16)
    assert "of 256 grey levels" in warning
    assert "raise exposure or gain" in warning


def test_parts_that_are_all_alike_give_no_warning() -> None:
    """Nothing varies: calibration refuses such parts elsewhere, and no number is divided by zero."""
    assert warnings_of(snapshot(), np.full((40, 128, 128, 3), 90, np.uint8)) == ()
