"""The rendered capacitors: deterministic, labelled truthfully, defects of the promised contrast and size."""

from __future__ import annotations

import itertools
from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from inspectd.cameras.capacitor_defects import DefectSpec, DefectType, Severity
from inspectd.cameras.simulated import RenderedPart, choose_defect, render_part

ON_ELECTRODE = {DefectType.ELECTRODE_EDGE_CHIP, DefectType.ELECTRODE_CORNER_MISSING, DefectType.EXPOSED_BODY}
PROMISED = {Severity.PLAIN: 8.0, Severity.MODERATE: 4.0, Severity.FAINT: 2.0}
EVERY_KIND = list(itertools.product(DefectType, Severity))


def grey(part: RenderedPart) -> NDArray[np.float64]:
    """The red channel, which carries the grey levels untinted."""
    return part.image[..., 0].astype(np.float64)


def part_coordinates(part: RenderedPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(u, v) of each frame pixel, from the true pose."""
    rows, columns = np.mgrid[: part.image.shape[0], : part.image.shape[1]]
    turn = np.deg2rad(part.pose.angle_deg)
    x, y = columns - part.pose.x_px, rows - part.pose.y_px
    return (
        (np.cos(turn) * x + np.sin(turn) * y) / part.pose.scale,
        (np.cos(turn) * y - np.sin(turn) * x) / part.pose.scale,
    )


@cache
def others() -> list[RenderedPart]:
    """Good parts of another line."""
    return [render_part(77, index) for index in range(40)]


def variation_of_good_parts(part: RenderedPart) -> float:
    """Deviation between good parts over the mask, slow light taken off: measured here from pictures and poses alone."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    turned = [cv2.warpAffine(grey(other), onto(part, other), (240, 200), flags=flags) for other in others()]
    differences = np.stack(turned) - np.mean(turned, axis=0)
    light = np.stack([cv2.GaussianBlur(one, (0, 0), 7.0) for one in differences])
    return float(np.sqrt(np.square(differences - light).mean(axis=0)[part.mask > 0].mean()))


def onto(part: RenderedPart, other: RenderedPart) -> NDArray[np.float64]:
    """(2, 3): where a pixel of `part`'s frame lies in `other`'s frame, for the same place of the part."""
    turn = np.deg2rad(other.pose.angle_deg - part.pose.angle_deg)
    scale = other.pose.scale / part.pose.scale
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    here, there = (np.array([p.pose.x_px, p.pose.y_px]) for p in (part, other))
    return np.column_stack([linear, there - linear @ here])


def test_same_seed_and_index_give_the_same_pixels_and_another_index_does_not() -> None:
    """A part is a function of seed and index alone."""
    spec = DefectSpec(DefectType.BODY_CRACK, Severity.PLAIN, 9)
    first, again = render_part(4, 7, spec), render_part(4, 7, spec)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, render_part(4, 8, spec).image)
    assert not np.array_equal(first.image, render_part(5, 7, spec).image)


def test_a_good_part_is_labelled_good_and_has_an_empty_mask() -> None:
    """No defect asked for, none drawn and none claimed."""
    part = render_part(1, 0)
    assert (part.label, part.severity, part.size_px) == ("good", "", 0.0)
    assert part.image.shape == (200, 240, 3)
    assert part.image.dtype == np.uint8
    assert part.mask.shape == (200, 240)
    assert not part.mask.any()


@pytest.mark.parametrize("kind", DefectType)
def test_a_defect_changes_nothing_but_its_own_place(kind: DefectType) -> None:
    """Apart from the defect, a defective part is the good part of the same index: the label leaks nowhere else."""
    good = render_part(2, 3)
    bad = render_part(2, 3, DefectSpec(kind, Severity.PLAIN, 10))
    elsewhere = cv2.dilate(bad.mask, np.ones((17, 17), np.uint8)) == 0
    assert bad.mask.any()
    assert set(np.unique(bad.mask)) == {0, 255}
    assert np.array_equal(good.image[elsewhere], bad.image[elsewhere])
    assert good.pose == bad.pose


@pytest.mark.parametrize(("kind", "severity"), EVERY_KIND)
def test_contrast_to_noise_is_what_the_severity_says(kind: DefectType, severity: Severity) -> None:
    """Mean difference over the mask to the good render, over how much good parts differ there: what was asked for.

    On average, within a fifth above; below, more, because a pose has one scale, and the ends of parts that are longer
    or shorter than they are wide differ more by pose than they do by place.
    """
    ratios = []
    for index, size_px in enumerate(np.linspace(3, 15, 12)):
        good = render_part(3, index)
        bad = render_part(3, index, DefectSpec(kind, severity, float(size_px)))
        difference = np.abs((grey(bad) - grey(good))[bad.mask > 0].mean())
        ratios.append(difference / variation_of_good_parts(bad))
    assert 0.5 < np.mean(ratios) / PROMISED[severity] < 1.2


@pytest.mark.parametrize("kind", DefectType)
def test_the_mask_extends_as_far_as_the_size_says(kind: DefectType) -> None:
    """The longest extent of the mask, in part pixels, follows the asked size."""
    shares = []
    for index, size_px in enumerate(np.linspace(4, 15, 12)):
        part = render_part(6, index, DefectSpec(kind, Severity.MODERATE, float(size_px)))
        u, v = (axis[part.mask > 0] for axis in part_coordinates(part))
        shares.append(np.hypot(u[:, None] - u, v[:, None] - v).max() / size_px)
    assert 0.75 < np.mean(shares) < 1.3
    assert min(shares) > 0.5
    assert max(shares) < 1.6


@pytest.mark.parametrize("kind", DefectType)
def test_defects_lie_on_the_part_and_on_their_material(kind: DefectType) -> None:
    """A body defect lies between the electrodes, an electrode's on an electrode, none on the background."""
    for index in range(10):
        part = render_part(8, index, DefectSpec(kind, Severity.PLAIN, 3 + 1.2 * index))
        u, v = (np.abs(axis[part.mask > 0]) for axis in part_coordinates(part))
        assert u.max() < 57
        assert v.max() < 27
        assert (u.min() > 24) if kind in ON_ELECTRODE else (u.max() < 36)


@pytest.mark.parametrize("kind", DefectType)
def test_no_two_parts_have_their_defect_in_the_same_place(kind: DefectType) -> None:
    """Place and shape are drawn anew for each part."""
    masks = []
    for index in range(8):
        part = render_part(12, index, DefectSpec(kind, Severity.PLAIN, 8))
        u, v = (axis[part.mask > 0] for axis in part_coordinates(part))
        masks.append((round(u.mean(), 1), round(v.mean(), 1), u.size))
    assert len(set(masks)) == 8
    assert np.ptp([place[0] for place in masks]) > 5


@pytest.mark.parametrize("size_px", [2.9, 15.1, float("nan")])
def test_a_size_outside_3_to_15_px_is_refused(size_px: float) -> None:
    """Sizes that the line does not make are an error, not a surprise."""
    with pytest.raises(ValueError, match="size_px must be 3 to 15"):
        DefectSpec(DefectType.SCRATCH, Severity.PLAIN, size_px)


def test_the_chosen_share_of_parts_is_defective_and_the_choice_does_not_touch_the_part() -> None:
    """`share` is kept over many parts, every type and severity occurs, and 0 and 1 mean none and all."""
    chosen = [choose_defect(1, index, 0.3) for index in range(2000)]
    defects = [spec for spec in chosen if spec is not None]
    assert 0.26 < len(defects) / len(chosen) < 0.34
    assert {(spec.type, spec.severity) for spec in defects} == set(EVERY_KIND)
    assert all(choose_defect(1, index, 0.0) is None for index in range(50))
    assert all(choose_defect(1, index, 1.0) is not None for index in range(50))


def test_a_good_part_looks_as_described() -> None:
    """Dark background, grey body, bright electrodes that are nearly but not flatly saturated."""
    for index in range(10):
        part = render_part(11, index)
        u, v = part_coordinates(part)
        body = grey(part)[(np.abs(u) < 22) & (np.abs(v) < 20)]
        electrode = grey(part)[(np.abs(u) > 34) & (np.abs(u) < 50) & (np.abs(v) < 20)]
        background = grey(part)[(np.abs(u) > 62) | (np.abs(v) > 32)]
        assert background.mean() < 30
        assert 80 < body.mean() < 140
        assert 210 < electrode.mean() < 252
        assert (electrode == 255).mean() < 0.05
        assert 2 < body.std() < 9
