"""Made defects: visible, on the part, inside the regions, as many of each kind and size, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.images import load_image
from calibration.made_defects import (
    FADE_PX,
    WANTED,
    MadeDefect,
    gallery,
    make_defects,
    visibility,
    with_defects,
)
from engines.settings import RegionSettings

DATA = Path(__file__).parents[2].parent / "shared" / "data"
EVERY = len(WANTED)
Images = NDArray[np.uint8]
Set = tuple[Images, tuple[RegionSettings, ...]]


def region(top: int, left: int, height: int, width: int, name: str = "part") -> RegionSettings:
    """A region without Patch_GMSD."""
    return RegionSettings(name=name, top_px=top, left_px=left, height_px=height, width_px=width)


def finished(images: NDArray[np.float64], noise: float, rng: np.random.Generator) -> Images:
    """Grain over pictures (P, H, W, 3)."""
    return np.clip(np.rint(images + rng.normal(0, noise, images.shape)), 0, 255).astype(np.uint8)


def grey_texture(rng: np.random.Generator) -> Set:
    """Grey noise with stripes, 96x96, two regions with a gap between them."""
    stripes = 110 + 25 * np.sign(np.sin(np.arange(96) / 4.0))
    noisy = stripes[None, :, None, None] + rng.normal(0, 4, (5, 96, 96, 1))
    grey = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return np.repeat(grey, 3, axis=3), (region(8, 4, 80, 40, "left"), region(8, 50, 80, 40, "right"))


def coloured_object(rng: np.random.Generator) -> Set:
    """A green disc with a slot on white, 120x160, somewhere else in each picture."""
    images = np.full((4, 120, 160, 3), 245.0)
    for place, image in enumerate(images):
        cv2.circle(image, (70 + 6 * place, 60), 42, (60, 170, 70), -1)
        cv2.rectangle(image, (50 + 6 * place, 52), (90 + 6 * place, 60), (30, 90, 40), -1)
    return finished(images, 2.0, rng), (region(0, 0, 120, 160),)


def capacitor(rng: np.random.Generator) -> Set:
    """110x50 on 128x128 black, bright, dark, bright, with the station's three regions."""
    images = np.zeros((4, 128, 128, 3))
    images[:, 39:89, 9:119] = 225
    images[:, 39:89, 34:94] = 95
    part = finished(images, 5.0, rng)
    part[images.max(axis=3) == 0] = 0
    return part, (region(39, 9, 50, 25, "a"), region(39, 34, 50, 60, "b"), region(39, 94, 50, 25, "c"))


def tiny(rng: np.random.Generator) -> Set:
    """32x32 with one edge, one part alone."""
    images = np.full((1, 32, 32, 3), 90.0)
    images[:, :, 16:] = 150
    return finished(images, 3.0, rng), (region(0, 0, 32, 32),)


SETS = {make.__name__: make for make in (grey_texture, coloured_object, capacitor, tiny)}


@cache
def parts(name: str) -> Set:
    """The good parts of this name, and their regions."""
    images, regions = SETS[name](np.random.default_rng(0))
    images.flags.writeable = False
    return images, regions


@cache
def made(name: str, seed: int) -> list[MadeDefect]:
    """Twice every kind and size on these parts."""
    images, regions = parts(name)
    return make_defects(images, regions, 2 * EVERY, seed)


def inside_of(name: str) -> NDArray[np.bool_]:
    """(H, W): the regions."""
    images, regions = parts(name)
    inside = np.zeros(images.shape[1:3], bool)
    for area in regions:
        inside[area.top_px : area.top_px + area.height_px, area.left_px : area.left_px + area.width_px] = True
    return inside


def same(one: MadeDefect, other: MadeDefect) -> bool:
    """Every field agrees."""
    fields = (one.kind, one.size, one.source) == (other.kind, other.size, other.source)
    return fields and np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)


def extent(defect: MadeDefect) -> int:
    """Longer side of the mask's box."""
    return int(np.ptp(np.argwhere(defect.mask), axis=0).max()) + 1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", SETS)
def test_defects_are_visible_and_stay_inside_the_regions(name: str, seed: int) -> None:
    """Masks lie in the regions, hold what changed but for a soft rim, and every defect passes the rule."""
    images, _ = parts(name)
    inside = inside_of(name)
    for defect in made(name, seed):
        good = images[defect.source]
        changed = (defect.image != good).any(axis=2)
        rim = cv2.dilate(defect.mask.astype(np.uint8), np.ones((2 * FADE_PX + 1, 2 * FADE_PX + 1), np.uint8)) > 0
        assert (defect.image.shape, defect.image.dtype, defect.mask.dtype) == (good.shape, np.uint8, np.bool_)
        assert defect.mask.any()
        assert not defect.mask[~inside].any(), (defect.kind, defect.size)
        assert not changed[~(rim & inside)].any(), (defect.kind, defect.size)
        assert changed[defect.mask].mean() > 0.6, (defect.kind, defect.size)
        assert visibility(good, defect) >= 1, (defect.kind, defect.size)


@pytest.mark.parametrize("name", ["grey_texture", "coloured_object", "capacitor"])
def test_kinds_sizes_and_parts_are_balanced(name: str) -> None:
    """As many of each kind and size (what cannot be seen is a stain instead: few), and each part about as often."""
    defects = made(name, 0)
    asked = [WANTED[k % EVERY] for k in range(2 * EVERY)]
    got = [(defect.kind, defect.size) for defect in defects]
    assert [size for _, size in got] == [size for _, size in asked]
    replaced = [kind for (kind, _), (wanted, _) in zip(got, asked, strict=True) if kind != wanted]
    assert set(replaced) <= {"stain"}
    assert len(replaced) <= 4
    used = Counter(defect.source for defect in defects)
    assert len(used) == len(parts(name)[0])
    assert max(used.values()) - min(used.values()) <= 1


def test_sizes_are_sizes() -> None:
    """Large defects are several times as long as small ones, lines apart from patches."""
    defects = made("coloured_object", 0) + made("coloured_object", 1)
    for lines in (True, False):
        typical = [
            np.median([extent(d) for d in defects if d.size == size and (d.kind == "scratch") == lines])
            for size in ("small", "medium", "large")
        ]
        assert typical[0] * 1.4 < typical[1] < typical[2] / 1.4
    wide = [extent(defect) for defect in defects if defect.size == "extended"]
    assert np.median(wide) > 1.4 * typical[2]
    images, _ = parts("coloured_object")
    for defect in (defect for defect in defects if defect.size == "whole"):
        part = images[defect.source].astype(int).min(axis=2) < 200  # the disc on white
        assert defect.mask[part].mean() > 0.7, defect.kind


def test_the_same_seed_makes_the_same_whatever_the_count_and_global_state() -> None:
    """Defect k depends on the parts, the regions, the seed and k alone."""
    images, regions = parts("coloured_object")
    np.random.seed(5)
    few = make_defects(images, regions, 10, seed=0)
    assert all(same(one, other) for one, other in zip(few, made("coloured_object", 0), strict=False))
    others = make_defects(images, regions, 10, seed=3)
    assert not any(np.array_equal(one.image, other.image) for one, other in zip(few, others, strict=True))
    assert make_defects(images, regions, 0, seed=0) == []


def test_good_parts_keep_their_pixels() -> None:
    """Neither function writes to the parts it is given."""
    images, regions = (parts("coloured_object")[0].copy(), parts("coloured_object")[1])
    before = images.copy()
    make_defects(images, regions, EVERY, seed=4)
    with_defects(images, regions, seed=4)
    assert np.array_equal(images, before)


@pytest.mark.parametrize("name", ["coloured_object", "capacitor"])
def test_defects_lie_on_the_part(name: str) -> None:
    """On objects hardly any of a defect is on the background; a bend may carry the outline there."""
    images, _ = parts(name)
    background = images[0, 0, 0].astype(int)
    for defect in made(name, 0) + made(name, 1):
        on_part = (np.abs(images[defect.source].astype(int) - background).max(axis=2) > 30).astype(np.uint8)
        near = cv2.dilate(on_part, np.ones((5, 5), np.uint8)) > 0
        if defect.kind != "bend":
            assert near[defect.mask].all(), (defect.kind, defect.size)


def test_what_is_missing_shows_background_at_the_outline() -> None:
    """A broken-off piece of an object takes the background's colour, and the outline runs through it."""
    images, _ = parts("coloured_object")
    missing = [defect for defect in made("coloured_object", 0) if defect.kind == "missing"]
    assert len(missing) == 6
    for defect in missing:
        shown = defect.image[defect.mask].min(axis=1)  # of green, little; of white, much
        assert shown.max() > 225
        assert np.median(shown) > 200 or defect.size != "large"  # smaller ones are half rim
        around = cv2.dilate(defect.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert (images[defect.source][around & ~defect.mask].min(axis=1) > 225).any()


def test_parts_that_fill_the_picture_get_holes() -> None:
    """Where nothing is background, what is missing is a hole that is darker than the surface was."""
    images, _ = parts("grey_texture")
    for defect in made("grey_texture", 0):
        if defect.kind == "missing":
            change = defect.image[defect.mask].astype(float).mean() - images[defect.source][defect.mask].mean()
            assert change < -15


def test_grey_parts_get_grey_defects() -> None:
    """A camera without colour cannot see coloured stains."""
    for defect in made("grey_texture", 0):
        assert (defect.image == defect.image[..., :1]).all(), defect.kind


def test_blank_parts_get_stains_for_what_cannot_be_seen() -> None:
    """Blur of a blank surface changes nothing: a stain comes in its place, and says so; all are visible."""
    images = np.full((2, 48, 48, 3), 120, np.uint8)
    defects = make_defects(images, (region(0, 0, 48, 48),), EVERY, seed=0)
    assert "blur" not in {defect.kind for defect in defects}
    assert all(visibility(images[defect.source], defect) >= 1 for defect in defects)


def test_visibility_weighs_change_against_grain_and_size() -> None:
    """The same spot counts less on rough ground, a fainter one counts less, a small one needs more, none counts 0."""
    rng = np.random.default_rng(1)
    smooth = finished(np.full((1, 80, 80, 3), 120.0), 1.0, rng)[0]
    rough = finished(np.full((1, 80, 80, 3), 120.0), 20.0, rng)[0]
    mask = np.zeros((80, 80), bool)
    mask[35:45, 35:45] = True

    def spot(good: Images, levels: int, size: str = "large") -> float:
        image = good.copy()
        image[mask] += np.uint8(levels)
        return visibility(good, MadeDefect(image=image, mask=mask, kind="stain", size=size, source=0))

    assert spot(smooth, 20) > 1 > spot(smooth, 5) > 0
    assert spot(rough, 20) < 1
    assert spot(smooth, 20, "small") < spot(smooth, 20)
    empty = MadeDefect(image=smooth, mask=mask & False, kind="stain", size="large", source=0)
    assert visibility(smooth, empty) == 0


def test_what_cannot_be_worked_with_is_refused() -> None:
    """No parts, no regions, a region beyond the pictures, a negative count."""
    images, regions = parts("tiny")
    for wrong in (
        (images[:0], regions, 1),
        (images, (), 1),
        (images, (region(40, 40, 9, 9),), 1),
        (images, regions, -1),
    ):
        with pytest.raises(ValueError, match=r"good part|outside"):
            make_defects(*wrong, seed=0)


def test_the_gallery_shows_every_defect_with_a_box() -> None:
    """One row after the other; the picture is there in its size, and boxes are drawn unless they are not wanted."""
    defects = made("capacitor", 0)[:7]
    sheet, plain = (gallery(defects, 3, side_px=128, boxes=boxes) for boxes in (True, False))
    assert (sheet.dtype, sheet.shape) == (np.uint8, plain.shape)
    height, width = sheet.shape[0] // 3, sheet.shape[1] // 3
    assert min(height, width) >= 128
    assert (plain[2 * height :, width:] == 255).all()  # seven of nine places are taken
    for place, defect in enumerate(defects):
        tile = np.s_[place // 3 * height : place // 3 * height + 130, place % 3 * width : place % 3 * width + 130]
        assert np.array_equal(plain[tile][2:130, 2:130], defect.image)
        assert (sheet[tile] != plain[tile]).any()
    with pytest.raises(ValueError, match="at least one"):
        gallery([], 3)


def test_closeups_show_the_defect_enlarged() -> None:
    """Beside each picture; what the box takes there is much more of the tile than in the picture."""
    image = np.full((60, 90, 3), 80, np.uint8)
    mask = np.zeros((60, 90), bool)
    image[50:56, 70:76] = 200
    mask[50:56, 70:76] = True
    defect = MadeDefect(image=image, mask=mask, kind="stain", size="small", source=0)
    tile = gallery([defect], 1, side_px=90, boxes=False, closeups=True)
    bright = (tile[2:62, 2:152].min(axis=2) > 150) & (tile[2:62, 2:152].max(axis=2) < 250)
    assert bright[:, :90].sum() == 36
    assert bright[:, 90:].sum() > 4 * 36


def test_every_part_gets_a_defect_of_its_own() -> None:
    """Copies for parity and golden images: each differs from its part, inside the regions, and seeds differ."""
    images, regions = parts("grey_texture")
    marked = with_defects(images, regions, seed=3)
    changed = (marked != images).any(axis=3)
    assert changed.any(axis=(1, 2)).all()
    assert not changed[:, ~inside_of("grey_texture")].any()
    assert np.array_equal(marked, with_defects(images, regions, seed=3))
    assert not np.array_equal(marked, with_defects(images, regions, seed=4))


def test_a_part_that_nearly_fills_its_region_breaks_at_its_outline() -> None:
    """The region is all part by its share; what is missing still shows the background beside it."""
    images = np.full((2, 100, 100, 3), 20.0)
    images[:, 20:80, 20:80] = 160
    for corner in ((20, 20), (20, 68), (68, 20), (68, 68)):
        images[:, corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = 20
    images = finished(images, 2.0, np.random.default_rng(0))
    regions = (region(18, 18, 64, 64, "whole"), region(20, 40, 60, 20, "bar"))
    missing = [d for seed in range(3) for d in make_defects(images, regions, EVERY, seed) if d.kind == "missing"]
    assert all(np.median(d.image[d.mask]) < 60 for d in missing if d.size == "large")
    assert all(d.image[d.mask].min() < 40 for d in missing)


def test_the_smallest_regions_can_be_worked_with() -> None:
    """3x3 pixels, at the corner of a picture."""
    images, _ = parts("tiny")
    for defect in make_defects(images, (region(29, 0, 3, 3),), EVERY, seed=0):
        assert defect.mask[29:, :3].any()
        assert np.array_equal(defect.image[:29], images[0, :29])


@pytest.mark.parametrize("name", ["objects/metal_nut", "objects/solder_round", "paper/brg03_tl", "magnetic_tile"])
def test_real_good_parts_get_every_kind(name: str) -> None:
    """On real good parts nearly all kinds and sizes can be made visible as asked."""
    files = sorted((DATA / name / "train" / "good").glob("*"))[:4]
    if not files:
        pytest.skip(f"../shared/data/{name} is absent")
    images = np.stack([cv2.resize(load_image(file), (192, 192), interpolation=cv2.INTER_AREA) for file in files])
    defects = make_defects(images.astype(np.uint8), (region(0, 0, 192, 192),), EVERY, seed=0)
    assert all(visibility(images[defect.source], defect) >= 1 for defect in defects)
    assert sum(defect.kind != WANTED[k % EVERY][0] for k, defect in enumerate(defects)) <= 3
