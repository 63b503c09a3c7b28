"""What a person must know before a bundle judges any part: settings not to be relied on, parts that move."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from calibration.surface import CANONICAL_SHARE, share_left
from engines.artifact import SettingsSnapshot

CELL_PX = 16
DIM = 32
"""Grey levels that parts must reach."""
MOVING_SHARE = 0.03
"""Of the variance that places' own means leave, where `locate` is off. Simulated capacitors that lie still have 0.002,
moved by 1 pixel and 1 degree (0.9 % of their length) 0.02, by 2 pixels and 2 degrees 0.07, as photographed 0.2."""


def warnings_of(snapshot: SettingsSnapshot, images: NDArray[np.uint8], unfit: int = 0) -> tuple[str, ...]:
    """One line each, of these settings, good part images (P, H, W, 3), and how many more showed no part to judge."""
    found = []
    if unfit:
        found.append(
            f"{unfit} of {unfit + len(images)} images of good parts show no part to judge: the line rejects such parts "
            "(INVALID), and the expected false-reject rate does not count them"
        )
    brightest = int(images.max())
    if brightest < DIM:
        found.append(
            f"good parts use {brightest + 1} of 256 grey levels: too dark to learn much from; raise exposure or "
            "gain, or save more bits of each pixel"
        )
    if snapshot.model.random_teachers:
        found.append(
            "teachers are untrained (model.random_teachers): an ablation, whose verdicts are not to be relied on"
        )
    placed = snapshot.model.student and snapshot.locate.get("mode") == "off"  # a memory knows no places
    share = _share_left(images) if placed else 0.0
    if MOVING_SHARE < share < CANONICAL_SHARE:
        found.append(
            f"good parts move in the frame, or differ in light ({share:.0%} of what varies is left by the mean of each "
            "place): small defects may pass; fix the part's place or set `locate` (docs/locate.md says what it costs)"
        )
    return tuple(found)


def _share_left(images: NDArray[np.uint8]) -> float:
    """`share_left` of parts at CELL_PX pixels a cell."""
    height, width = (max(1, side // CELL_PX) for side in images.shape[1:3])
    small = np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images])
    return share_left(torch.from_numpy(small).permute(0, 3, 1, 2).float())
