"""Golden images: an engine that scores otherwise does not start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bundle_making import CANVAS, REGIONS, MeanRuntime, make_bundle

from engines.errors import BundleError, ParityError
from engines.golden import read_golden, verify


def test_same_engine_reproduces(tmp_path: Path) -> None:
    """The engine that made the scores reproduces them, and the report says how closely."""
    report = verify(make_bundle(tmp_path), MeanRuntime())
    assert report.images == 2
    assert report.worst_deviation < 1e-6


def test_other_scores_are_refused(tmp_path: Path) -> None:
    """A deviation beyond the tolerance names the image, the score and the engine."""
    runtime = MeanRuntime()
    runtime.bias = 0.05
    with pytest.raises(
        ParityError, match=r"golden/40\.png: the score of region right is off by .* \(test f32 on cpu\)"
    ):
        verify(make_bundle(tmp_path), runtime)


def test_small_deviation_is_reported(tmp_path: Path) -> None:
    """A deviation within the tolerance passes and is stated."""
    runtime = MeanRuntime()
    runtime.bias = 0.001
    assert 0.0005 < verify(make_bundle(tmp_path), runtime).worst_deviation < 0.01


def test_each_place_of_a_batch_is_checked(tmp_path: Path) -> None:
    """With more places than images, images go round: a place that scores otherwise is found."""
    runtime, bundle = MeanRuntime(), make_bundle(tmp_path)
    places = [MeanRuntime() for _ in range(3)]
    runtime.info, runtime.slots = replace(runtime.info, batch=3), (*places, MeanRuntime())  # type: ignore[assignment]
    assert verify(bundle, runtime).images == 2
    places[2].bias = 0.05
    with pytest.raises(ParityError, match=r"golden/40\.png: the score of region right is off by"):
        verify(bundle, runtime)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    """An engine that gives NaN does not start."""
    runtime = MeanRuntime()
    runtime.bias = float("nan")
    with pytest.raises(ParityError, match="off by inf"):
        verify(make_bundle(tmp_path), runtime)


def test_engine_of_other_regions_is_refused(tmp_path: Path) -> None:
    """An engine with another number of regions is refused before scores are compared."""
    with pytest.raises(ParityError, match="scores 1 regions, the bundle has 2"):
        verify(make_bundle(tmp_path), MeanRuntime(REGIONS[:1]))


def test_golden_image_is_read_as_written(tmp_path: Path) -> None:
    """The golden image comes back without loss, on the bundle's canvas."""
    bundle = make_bundle(tmp_path)
    image = read_golden(bundle, bundle.manifest.golden[1])
    assert image.shape == (CANVAS.height_px, CANVAS.width_px, 3)
    assert (image == 90).all()


def test_golden_image_of_another_size_is_refused(tmp_path: Path) -> None:
    """A golden image that does not fit the canvas is a broken bundle, not a bad score."""
    bundle = make_bundle(tmp_path)
    settings = bundle.manifest.settings.model_copy(update={"canvas": CANVAS.model_copy(update={"width_px": 128})})
    other = type(bundle)(bundle.folder, bundle.hash, bundle.manifest.model_copy(update={"settings": settings}))
    with pytest.raises(BundleError, match="is 96x64 pixels, the canvas is 128x64"):
        read_golden(other, bundle.manifest.golden[0])
