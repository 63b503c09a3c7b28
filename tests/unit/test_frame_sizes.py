"""Pictures of several sizes among the good parts."""

from __future__ import annotations

from calibration.frame_sizes import warning_of


def test_one_size_needs_no_word() -> None:
    """Nothing is said of what is plain."""
    assert warning_of({(640, 480): 300}, whole_frame=True) == ""


def test_a_portrait_among_landscapes_is_stretched_and_told() -> None:
    """With the whole frame as the part, other shapes are stretched, and other resolutions made larger or smaller."""
    stretched = warning_of({(412, 285): 37, (285, 412): 2}, whole_frame=True)
    assert "2 sizes: 412x285 (37 images), 285x412 (2)" in stretched
    assert "stretched" in stretched
    resized = warning_of({(640, 480): 5, (320, 240): 5, (1280, 960): 5}, whole_frame=True)
    assert "3 sizes" in resized
    assert "stretched" not in resized
    assert "resized" in resized


def test_located_parts_are_not_stretched() -> None:
    """Locating corrects the scale; the sizes are told all the same, because a camera takes one."""
    found = warning_of({(412, 285): 37, (285, 412): 2}, whole_frame=False)
    assert found
    assert "stretched" not in found


def test_many_sizes_are_counted() -> None:
    """Four are named, the rest are counted."""
    assert "and 6 more sizes" in warning_of({(100 + n, 100): 10 - n for n in range(10)}, whole_frame=True)
