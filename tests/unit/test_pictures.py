"""Pictures for people: what an overlay and a sheet show."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from inspectd.messages import Outcome
from inspectd.pictures import Tile, overlay, sheet, write_png

GREY = np.full((32, 48, 3), 100, np.uint8)


def _tile(outcome: Outcome) -> Tile:
    return Tile(
        part_image=GREY, anomaly_map=np.zeros((8, 12), np.float32), limit=1.0, outcome=outcome, title="body crack"
    )


def test_an_overlay_colours_only_what_the_map_marks() -> None:
    """Where the map is zero the part keeps its grey; where it reaches the limit the part turns red."""
    marked = np.zeros((8, 12), np.float32)
    marked[:, 6:] = 2.0
    drawn = overlay(GREY, marked, limit=1.0).astype(int)
    left, right = drawn[:, :20], drawn[:, -8:]
    assert np.ptp(left.mean(axis=(0, 1))) < 3
    assert right[..., 0].mean() > right[..., 1].mean() + 20
    assert right[..., 0].mean() > right[..., 2].mean() + 20


def test_a_sheet_has_a_place_for_every_tile() -> None:
    """Five tiles in rows of three make two rows; the verdict colours the frame of its tile."""
    one = sheet([_tile(Outcome.PASS)], columns=1)
    many = sheet([_tile(Outcome.REJECT)] * 5, columns=3)
    assert many.shape == (2 * one.shape[0], 3 * one.shape[1], 3)
    assert not np.array_equal(one, sheet([_tile(Outcome.REJECT)], columns=1))


def test_a_written_picture_reads_back_the_same(tmp_path: Path) -> None:
    """PNG keeps the colours as they were, channel by channel."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    write_png(tmp_path / "deep" / "a.png", image)
    again = cv2.imread(str(tmp_path / "deep" / "a.png"), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(again, image)
