"""Frames of good parts: their background, what stands out from it, and whether that is one part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import DataError
from engines.alignment import Ground
from engines.alignment.foreground import blobs_of, distance, foreground, ring_of

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
Load = Callable[[], Images]

READ_SIDE_PX = 256
GROUND_SIDE_PX = 64
LEAST_DIAMETER_PX = 80
LEAST_LEVEL = 6.0
NOISE_FACTOR = 5.0
LEVEL_SHARE = 0.4
LEAST_FIT_SHARE = 0.8
SMALLEST_SHARE, LARGEST_SHARE = 0.004, 0.8
LEAST_CONNECTED = 0.6
MOST_RING = 0.3
MOST_AREA_SPREAD = 0.35


class NoPartSeen(DataError):
    """Good frames show no one part that stands out from a background: `locate` cannot be learnt from them."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Background, its level, and for each frame whether it shows one area apart from it."""

    ground: Floats
    level: float
    fit: NDArray[np.bool_]
    areas: NDArray[np.float64]
    radii: NDArray[np.float64]


def read_scene(frames: Sequence[Load]) -> tuple[list[Images], int, Scene]:
    """The frames as small as the part allows, by which factor, and their scene. Raises NoPartSeen."""
    first = frames[0]()
    factor = max(1, max(first.shape[:2]) // READ_SIDE_PX)
    small = [shrunk(load(), factor) for load in frames]
    scene = _scene_of(small)
    diameter = 2 * float(np.median(scene.radii[scene.fit])) * factor
    finer = max(1, int(diameter // LEAST_DIAMETER_PX))
    if finer < factor:
        factor = finer
        small = [shrunk(load(), factor) for load in frames]
        scene = _scene_of(small)
    return small, factor, scene


def _scene_of(small: Sequence[Images]) -> Scene:
    """Background, foreground and its areas; raises NoPartSeen, which says what was seen instead."""
    shape = small[0].shape
    unlike = sum(image.shape != shape for image in small)
    if unlike:
        raise NoPartSeen(f"{unlike} of {len(small)} frames are of another size than the first one")
    factor = max(1, max(shape[:2]) // GROUND_SIDE_PX)
    coarse = [shrunk(image, factor) for image in small]
    ground = np.median([np.median(ring_of(image), axis=0) for image in coarse], axis=0)
    ground = np.broadcast_to(ground.astype(np.float32), coarse[0].shape)
    for _ in range(3):
        lit = Ground(ground)
        apart = np.stack([image - ground - lit.light(image) for image in coarse]).astype(np.float32)
        level = _level(apart)
        ground = ground + _smooth(apart, level)
    lit = Ground(np.ascontiguousarray(ground, np.float32))
    apart = np.stack([image - ground - lit.light(image) for image in coarse]).astype(np.float32)
    level = _level(apart)
    return _measured(np.ascontiguousarray(ground, np.float32), level, apart, factor)


def _level(apart: Floats) -> float:
    """Between the background's noise and the faintest quarter of what stands out from it."""
    distances = np.stack([distance(each) for each in apart])
    rings = np.concatenate([ring_of(each[..., None]).ravel() for each in distances])
    floor = max(LEAST_LEVEL, NOISE_FACTOR * float(np.median(rings)))
    standing = distances[distances > floor]
    return max(floor, LEVEL_SHARE * float(np.quantile(standing, 0.25))) if standing.size else floor


def _smooth(apart: Floats, level: float) -> Floats:
    """(h, w, 3) float32: the background's own shape over the frame, as a polynomial of second degree."""
    height, width = apart.shape[1:3]
    standing = np.stack([cv2.dilate(foreground(each, level), np.ones((3, 3), np.uint8)) for each in apart]) > 0
    hidden = np.where(standing[..., None], np.nan, apart)
    seen = (~standing).mean(axis=0) >= 0.25
    if seen.mean() < 0.1:
        return np.zeros(apart.shape[1:], np.float32)
    median = np.nanmedian(hidden[:, seen], axis=0)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = 2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    weights = np.linalg.lstsq(basis[seen], median, rcond=None)[0]
    return np.asarray(basis @ weights, np.float32)


def _measured(ground: Floats, level: float, apart: Floats, factor: int) -> Scene:
    fit, areas, radii, faults = [], [], [], []
    for each in apart:
        mask = foreground(each, level)
        blobs = blobs_of(mask)
        share = float(blobs.areas[0]) / mask.size if blobs.areas.size else 0.0
        connected = float(blobs.areas[0] / blobs.areas.sum()) if blobs.areas.size else 0.0
        fault = _fault_of(share, connected, float(ring_of(mask[..., None]).mean()))
        faults.append(fault)
        fit.append(not fault)
        areas.append(share * mask.size * factor**2)
        radii.append(factor * _radius(mask, blobs.centres[0]) if blobs.areas.size else 0.0)
    fits = np.array(fit)
    if fits.mean() < LEAST_FIT_SHARE:
        common = max(sorted(set(faults) - {""}), key=faults.count)
        raise NoPartSeen(f"in {len(fits) - int(fits.sum())} of {len(fits)} frames {common}")
    kept = np.array(areas)[fits]
    low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75))
    if (high - low) / middle > MOST_AREA_SPREAD:
        raise NoPartSeen("what stands out from the background is of another size in each frame")
    usual = np.abs(np.array(areas) / middle - 1) < 0.6
    return Scene(ground, level, fits & usual, np.array(areas), np.array(radii))


def _fault_of(share: float, connected: float, ring: float) -> str:
    """What speaks against one part before a background, in words, or nothing."""
    if share < SMALLEST_SHARE:
        return "nothing of a part's size stands out from the background"
    if ring > MOST_RING:
        return "the border is no even background: the picture goes on beyond the frame"
    if share > LARGEST_SHARE:
        return "the part fills the frame, and no background is left"
    if connected < LEAST_CONNECTED:
        return "many areas stand out, not one"
    return ""


def _radius(mask: NDArray[np.uint8], centre: NDArray[np.float64]) -> float:
    """Of the circle around a blob's centre that holds it."""
    labels = cv2.connectedComponentsWithStats(mask, connectivity=8)
    largest = 1 + int(labels[2][1:, cv2.CC_STAT_AREA].argmax())
    rows, columns = np.nonzero(labels[1] == largest)
    return float(np.hypot(columns - centre[0], rows - centre[1]).max()) + 0.7


def shrunk(image: Images, factor: int) -> Images:
    """An (H, W, 3) uint8 image at 1/factor of its size, by area."""
    if factor == 1:
        return image
    height, width = max(1, image.shape[0] // factor), max(1, image.shape[1] // factor)
    cut = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
