"""Which parts a contact sheet shows, its colour scale, and that it can be drawn of any set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from calibration.contact_sheet import Gallery, Kind, contact_sheet
from calibration.dataset import GOOD, Sample
from calibration.part_table import JudgedPart, Limits
from engines.settings import RegionSettings

REGIONS = (RegionSettings(name="all", top_px=8, left_px=8, height_px=16, width_px=32, patches=((2, 2),)),)
LIMITS = Limits(1.0, (("all", 1.0),))
SHAPE = (32, 48)


def a_map(peak: float, beside: float = 0.0) -> NDArray[np.float32]:
    """A map of 8x12 cells whose highest one in the region is `peak`, and whose highest one outside is `beside`."""
    cells = np.zeros((8, 12), np.float32)
    cells[3, 5], cells[0, 0] = peak, beside
    return cells


def show(gallery: Gallery, label: str, score: float, name: str = "", **arrays: NDArray[np.float32]) -> None:
    """Show the gallery a part with one score."""
    sample = Sample(part_id=name, path=Path(f"set/test/{label}/{name or f'{score:.3f}'}.png"), label=label)
    part = JudgedPart(sample=sample, rejected=score > 1, part_score=score, region_scores=(score,))
    image = np.full((*SHAPE, 3), 90, np.uint8)
    gallery.show(part, image, arrays.get("anomaly_map", a_map(2 * score)), None)


def names(gallery: Gallery, kind: Kind) -> list[str]:
    """The kept parts of a kind."""
    return [tile.part.sample.path.stem for tile in gallery.tiles(kind)]


def test_the_worst_errors_and_the_nearest_correct_parts_are_kept() -> None:
    """Whatever the order that they come in, and no more than there is room for."""
    gallery = Gallery(LIMITS, REGIONS, room=2)
    scores = np.random.default_rng(0).permutation(np.linspace(0.1, 1.9, 10))
    for label in (GOOD, "crack"):
        for score in scores:
            show(gallery, label, float(score))
    assert names(gallery, Kind.MISSED) == ["0.100", "0.300"]
    assert names(gallery, Kind.CAUGHT) == ["1.100", "1.300"]
    assert names(gallery, Kind.WRONGLY_REJECTED) == ["1.900", "1.700"]
    assert names(gallery, Kind.PASSED) == ["0.900", "0.700"]
    assert gallery.counts == dict.fromkeys(Kind, 5)


def test_kept_pictures_are_copies() -> None:
    """The engine writes its buffers again for the next part."""
    gallery = Gallery(LIMITS, REGIONS)
    buffer = a_map(0.5)
    show(gallery, GOOD, 0.5, anomaly_map=buffer)
    buffer[:] = 7
    assert gallery.tiles(Kind.PASSED)[0].anomaly_map.max() == np.float32(0.5)


def test_equal_parts_need_no_order() -> None:
    """Parts with the same score: those that came first stay."""
    gallery = Gallery(LIMITS, REGIONS, room=2)
    for name in "abc":
        show(gallery, GOOD, 0.5, name)
    assert names(gallery, Kind.PASSED) == ["a", "b"]


def test_the_scale_is_that_of_the_limit_in_the_maps_own_units() -> None:
    """Scores of half the highest cell: the limit is a cell of 2. Cells outside the regions say nothing."""
    gallery = Gallery(LIMITS, REGIONS)
    for score in np.linspace(0.2, 0.8, 9):
        show(gallery, GOOD, float(score), anomaly_map=a_map(2 * float(score), beside=50))
    show(gallery, "crack", 40.0, anomaly_map=a_map(3.0))
    assert gallery.level_at_limit() == pytest.approx(2.0)


def test_the_scale_is_positive_where_maps_say_nothing() -> None:
    """One part, equal parts, and maps that do not follow the scores."""
    for peaks in ([0.0], [0.0, 0.0], [5.0, 4.0, 3.0]):
        gallery = Gallery(LIMITS, REGIONS)
        for index, peak in enumerate(peaks):
            show(gallery, GOOD, 0.3 + 0.1 * index, anomaly_map=a_map(peak))
        assert gallery.level_at_limit() > 0
        if max(peaks) > 0:
            assert gallery.level_at_limit() == pytest.approx(4.0)


def pixels(png: bytes) -> NDArray[np.uint8]:
    """The picture as (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def reddish(png: bytes) -> int:
    """How many pixels have much more red than green: what is above the limit, headings of errors, part of the bar."""
    red, green, _ = np.moveaxis(pixels(png).astype(int), 2, 0)
    return int((red > 2 * green + 20).sum())


def test_a_sheet_grows_with_its_parts_and_colours_what_is_above_the_limit() -> None:
    """Red is in the picture only where a map passes the limit; the bar of colours is the same in both."""
    calm, alarmed = Gallery(LIMITS, REGIONS), Gallery(LIMITS, REGIONS)
    for gallery in (calm, alarmed):
        for index in range(30):
            score = 0.5 + index / 100
            show(gallery, GOOD, score, anomaly_map=a_map(score))
    show(calm, GOOD, 0.99, anomaly_map=a_map(0.1))
    show(alarmed, GOOD, 0.99, anomaly_map=np.full((8, 12), 9, np.float32))
    assert reddish(contact_sheet(alarmed, "set")) > reddish(contact_sheet(calm, "set")) + 1000
    for index in range(4):
        show(alarmed, "crack", 0.5 + index / 10)
    assert pixels(contact_sheet(alarmed, "set")).shape[0] > pixels(contact_sheet(calm, "set")).shape[0]


def test_names_of_any_kind_can_be_drawn() -> None:
    """Formulas, brackets, bytes that are no UTF-8, letters that the font lacks, names longer than their place."""
    gallery = Gallery(LIMITS, REGIONS)
    for name in ("a$_{$", "[/red]", b"\xff\xfe".decode("utf-8", "surrogateescape"), "部品\n", "x" * 200):
        show(gallery, "crack", 0.5, name)
    assert pixels(contact_sheet(gallery, "$_{$", (1, 2))).shape[1] > 1000


def test_a_sheet_of_nothing_is_refused() -> None:
    """Where every part was INVALID."""
    with pytest.raises(ValueError, match="inspected part"):
        contact_sheet(Gallery(LIMITS, REGIONS), "set")
