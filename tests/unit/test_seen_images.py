"""Which images a camera has given before."""

from __future__ import annotations

import numpy as np
import pytest

from inspectd.seen_images import REMEMBERED, SeenImages


def test_one_pixel_makes_another_image() -> None:
    """Wherever it lies; and so does another shape of the same bytes."""
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    seen = SeenImages()
    assert seen.is_new(image)
    assert not seen.is_new(image.copy())
    other = image.copy()
    other[7, 3, 1] ^= 1
    assert seen.is_new(other)
    assert seen.is_new(image.reshape(30, 20, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_noisy_image_is_told_apart_by_some_of_its_rows(dtype: type) -> None:
    """Two exposures of one scene differ in every row."""
    scene = np.full((3000, 2000, 3), 100, dtype)
    rng = np.random.default_rng(0)
    seen = SeenImages()
    exposures = [scene + rng.integers(0, 5, scene.shape).astype(dtype) for _ in range(2)]
    assert [seen.is_new(each) for each in (*exposures, *exposures)] == [True, True, False, False]


def test_only_the_last_ones_are_remembered() -> None:
    """Memory is bounded; an image that repeats stays remembered."""
    seen = SeenImages()
    images = [np.full((2, 2, 3), number, np.uint16) for number in range(REMEMBERED + 1)]
    for image in images[:REMEMBERED]:
        assert seen.is_new(image)
    assert not seen.is_new(images[0])
    assert seen.is_new(images[REMEMBERED])
    assert not seen.is_new(images[0])
    assert seen.is_new(images[1])
