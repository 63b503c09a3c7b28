"""Images of more than 8 bits: the range of the good parts becomes 8 bits, once for calibration and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.errors import DataError
from calibration.grey_levels import grey_levels
from engines.pictures import Levels, to_8_bits
from engines.settings import CanvasSettings
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import Reason
from inspectd.sections import LocateSettings


def thermal(seed: int, side: int = 64) -> np.ndarray:
    """A 16-bit picture, (side, side), that uses 400 levels around 21 000, as thermal cameras do."""
    return np.random.default_rng(seed).integers(20_800, 21_200, (side, side)).astype(np.uint16)


def write(folder: Path, pictures: list[np.ndarray]) -> list[Path]:
    """PNG files of these."""
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        cv2.imwrite(str(path), picture)
    return paths


def quiet(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody follows."""


def test_a_small_range_is_spread_over_8_bits(tmp_path: Path) -> None:
    """With a tenth of the range as a margin at each end, so that a darker or brighter defect is still told apart."""
    found = grey_levels(write(tmp_path, [thermal(n) for n in range(5)]), None, quiet)
    assert found is not None
    assert found.levels == Levels(black=20_760, white=21_239)
    assert found.distinct == 400
    assert found.warning == ""
    eight = to_8_bits(thermal(9), found.levels)
    assert eight.dtype == np.uint8
    assert (int(eight.min()), int(eight.max())) == (21, 234)
    assert len(np.unique(eight)) > 200
    assert to_8_bits(np.array([0, 20_760, 21_000, 21_239, 65_535], np.uint16), found.levels).tolist() == [
        *(0, 0, 128, 255, 255)
    ]


def test_one_bright_pixel_does_not_hide_the_parts(tmp_path: Path) -> None:
    """A hot pixel, or a dead one, in every picture."""
    pictures = [thermal(n, 256) for n in range(5)]
    for picture in pictures:
        picture[7, 7], picture[9, 9] = 65_535, 0
    found = grey_levels(write(tmp_path, pictures), None, quiet)
    assert found is not None
    assert 20_700 < found.levels.black < 20_800
    assert 21_200 < found.levels.white < 21_300


def test_eight_bits_need_no_levels(tmp_path: Path) -> None:
    """They are taken as they are, and levels that a station sets for them are refused: they would say nothing."""
    paths = write(tmp_path, [np.full((8, 8), n, np.uint8) for n in range(3)])
    assert grey_levels(paths, None, quiet) is None
    with pytest.raises(DataError, match=r"0\.png: has 8 bits; the station's `levels`"):
        grey_levels(paths, Levels(black=0, white=4095), quiet)


def test_a_mixed_set_is_refused(tmp_path: Path) -> None:
    """8 bits among deeper images cannot be brought to the same scale."""
    paths = write(tmp_path, [thermal(0), thermal(1), np.full((64, 64), 80, np.uint8)])
    with pytest.raises(DataError, match=r"2\.png: has 8 bits, 0\.png and 1 more have up to 16"):
        grey_levels(paths, None, quiet)


def test_levels_of_the_station_count(tmp_path: Path) -> None:
    """A person who knows the camera sets them; the good parts then say nothing."""
    found = grey_levels(write(tmp_path, [thermal(0)]), Levels(black=0, white=4095), quiet)
    assert found is not None
    assert found.levels == Levels(black=0, white=4095)


def test_few_real_levels_are_warned_of(tmp_path: Path) -> None:
    """Sixteen levels spread over 256 are sixteen levels."""
    coarse = (thermal(0) // 25 * 25).astype(np.uint16)
    found = grey_levels(write(tmp_path, [coarse]), None, quiet)
    assert found is not None
    assert "only 16 different grey levels" in found.warning


def reflection(picture: np.ndarray) -> None:
    """A lamp over the first rows, 3 % of the picture, that touches every grey level up to white."""
    picture[:2] = np.linspace(21_200, 65_535, picture[:2].size).reshape(picture[:2].shape)


def black_border(picture: np.ndarray) -> None:
    """A quarter of the picture is no picture."""
    picture[:, :16] = 0


def one_sixteenth(picture: np.ndarray) -> None:
    """12 bits at the lower end, where the other images have them at the upper one."""
    picture //= 16


@pytest.mark.parametrize(
    ("spoil", "share"), [(reflection, 1), (black_border, 1), (one_sixteenth, 0.5), (one_sixteenth, 0.2)]
)
def test_levels_that_leave_little_of_a_part_are_warned_of(
    tmp_path: Path, spoil: Callable[[np.ndarray], None], share: float
) -> None:
    """A part may have 400 grey levels, of which a wide range leaves three."""
    pictures = [(20 * (thermal(n).astype(np.int64) - 20_800) + 50_000).astype(np.uint16) for n in range(10)]
    if spoil is not one_sixteenth:
        pictures = [thermal(n) for n in range(10)]
    for picture in pictures[: round(10 * share)]:
        spoil(picture)
    found = grey_levels(write(tmp_path, pictures), None, quiet)
    assert found is not None
    assert found.distinct >= 390
    assert f"of 10 good parts that were looked at again, {10 * share:.0f} keep fewer than 32" in found.warning
    assert f"black is {found.levels.black} and white {found.levels.white}" in found.warning


def test_levels_by_hand_that_leave_nothing_are_warned_of(tmp_path: Path) -> None:
    """Those of a 12-bit camera for a thermal one: all is white."""
    found = grey_levels(write(tmp_path, [thermal(0)]), Levels(black=0, white=4095), quiet)
    assert found is not None
    assert "as few as 1, of 400 that a part has" in found.warning


def test_the_line_refuses_8_bits_where_the_bundle_is_of_deeper_ones() -> None:
    """The camera's pixel format was changed: the picture would have another scale, so the part is INVALID."""
    canvas = CanvasSettings(height_px=32, width_px=32)
    locator = Locator(LocateSettings(mode="off"), canvas, levels=Levels(black=20_000, white=22_000))
    frame = np.repeat(thermal(0)[:, :, None], 3, axis=2)
    assert locator.locate(frame).part_image.max() > 100
    with pytest.raises(LocateFault, match="calibrated from deeper ones") as fault:
        locator.locate(to_8_bits(frame))
    assert fault.value.reason is Reason.BAD_IMAGE
