"""Which of many pictures show one and the same part again: copies, and bursts that a camera took of a part.

Parts of a kind look alike, so hashes of whole pictures call half of them copies. Here all that parts have in common is
taken away first: light, their mean, what a small move, turn or change of size does to it, and the ways in which many
of them differ. What is left is a part's own: of two parts it agrees by chance, in two pictures of one part it agrees.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

VIEW_PX = 96
"""Side of a view."""
FINE_PX, COARSE_PX = 1.0, 3.0
"""Standard deviations of the two Gaussians whose difference is compared: noise is finer, light is coarser."""
SAME_CORRELATION = 0.8
"""Of what is a part's own. Drawn parts, each photographed once, reach 0.2, figures and solder joints 0.65; nuts that a
person sees to be one nut have 0.86 and more, drawn bursts 0.78 to 0.98 (docs/auto.md)."""
COMMON_WAYS, PICTURES_PER_WAY = 8, 16
"""At most so many principal components are taken away, and one for so many pictures: kinds of cells, kinds of light."""
LEAST_LEFT = 0.05
"""Share that must be left without them: where a few parts were photographed often, they are the parts."""
CHUNK = 256


def own_look(views: Floats) -> Floats:
    """(P, h * w) float32 of length 1: what views (P, h, w) have that the others have not; 0 where that is nothing."""
    count = len(views)
    fine = [cv2.GaussianBlur(view, (0, 0), FINE_PX) - cv2.GaussianBlur(view, (0, 0), COARSE_PX) for view in views]
    bands = np.stack(fine).astype(np.float32)
    own = _without(bands.reshape(count, -1), _common(bands))
    own = _of_length_one(own)
    ways = min(COMMON_WAYS, count // PICTURES_PER_WAY)
    if ways:
        spread, vectors = np.linalg.eigh(own @ own.T)
        strongest = vectors[:, spread > 1e-6 * max(float(spread[-1]), 1e-6)][:, -ways:]
        components = np.linalg.qr(own.T @ strongest)[0].T
        left = _without(own, components)
        if float(np.median(np.square(left).sum(axis=1))) >= LEAST_LEFT:
            own = _of_length_one(left)
    return own


def same_parts(views: Floats) -> list[list[int]]:
    """Groups of two and more indices of views (P, h, w) that seem to show one part, in order."""
    own = own_look(views)
    leader = list(range(len(own)))

    def root(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for start in range(0, len(own), CHUNK):
        alike = own[start : start + CHUNK] @ own.T > SAME_CORRELATION
        for one, other in np.argwhere(alike).tolist():
            first, second = sorted((root(start + one), root(other)))
            leader[second] = first
    groups: dict[int, list[int]] = {}
    for index in range(len(own)):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _common(bands: Floats) -> Floats:
    """(B, h * w) orthonormal rows: the mean picture, and what a small move, turn or growth adds to it."""
    height, width = bands.shape[1:]
    mean = bands.mean(axis=0)
    down, across = np.gradient(mean)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    fields = [np.ones_like(x), mean, across, down, across * y - down * x, across * x + down * y]
    strength, rows = np.linalg.svd(np.stack([field.ravel() for field in fields]), full_matrices=False)[1:]
    return np.asarray(rows[strength > 1e-4 * strength[0]], np.float32)


def _without(rows: Floats, basis: Floats) -> Floats:
    return np.asarray(rows - (rows @ basis.T) @ basis, np.float32)


def _of_length_one(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-3, rows / np.maximum(length, 1e-3), 0), np.float32)
