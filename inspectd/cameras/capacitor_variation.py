"""How much good capacitors differ from one another at each place: the noise in a defect's contrast-to-noise ratio.

Places are part coordinates, so differences of pose and size do not count; neither does light that changes slowly
across the part. What counts is grain, and edges that run a little differently on every part.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.cameras.capacitor import PART_HEIGHT_PX, PART_WIDTH_PX, FloatMap, Scene, draw_good

PARTS = 120
SEED = 20_231
MARGIN_PX = 4
LIGHT_SIGMA_PX = 6.0
"""Deviation of the Gaussian mean that is taken off as light, in part pixels."""
HEIGHT, WIDTH = PART_HEIGHT_PX + 2 * MARGIN_PX, PART_WIDTH_PX + 2 * MARGIN_PX
SATURATION = np.float32(255.0)


def variation(scene: Scene, window_mask: NDArray[np.bool_]) -> float:
    """Deviation between good parts, in grey levels, over the places that `window_mask` (the window) covers.

    The first call draws PARTS good parts, which takes a third of a second.
    """
    column, row = scene.u + np.float32((WIDTH - 1) / 2), scene.v + np.float32((HEIGHT - 1) / 2)
    here = cv2.remap(variation_map(), column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(np.sqrt(np.square(here[window_mask]).mean()))


@cache
def variation_map() -> FloatMap:
    """(58, 118) float32: deviation between good parts at each pixel of the part and MARGIN_PX around it; never 0."""
    scenes = [draw_good(seeds) for seeds in np.random.SeedSequence(SEED).spawn(PARTS)]
    views = np.stack([_in_part_coordinates(scene, np.clip(scene.grey, 0, SATURATION)) for scene in scenes])
    covers = np.stack([_in_part_coordinates(scene, _whole(scene)) for scene in scenes]).mean(axis=0)
    part = (covers > 0.5).astype(np.float32)
    differences = (views - views.mean(axis=0)) * part
    weight = np.maximum(cv2.GaussianBlur(part, (0, 0), LIGHT_SIGMA_PX), np.float32(1e-3))
    light = np.stack([cv2.GaussianBlur(one, (0, 0), LIGHT_SIGMA_PX) / weight for one in differences])
    deviation = np.sqrt(np.square(differences - light).mean(axis=0))
    # beyond the outline there is no part: what a defect's rim covers there counts like the nearest place on it
    inner = cv2.erode(part, np.ones((3, 3), np.uint8))
    around = cv2.GaussianBlur(deviation * inner, (0, 0), 1.5) / np.maximum(
        cv2.GaussianBlur(inner, (0, 0), 1.5), np.float32(1e-3)
    )
    return np.asarray(np.maximum(np.where(inner > 0, deviation, around), 1.0), np.float32)


def _in_part_coordinates(scene: Scene, frame: FloatMap) -> FloatMap:
    """Sample the frame at part coordinates: (HEIGHT, WIDTH)."""
    look = scene.look
    turn = math.radians(look.angle_deg)
    along = np.array([math.cos(turn), math.sin(turn)]) * look.scale_u
    across = np.array([-math.sin(turn), math.cos(turn)]) * look.scale_v
    corner = np.array([look.x_px, look.y_px]) - along * (WIDTH - 1) / 2 - across * (HEIGHT - 1) / 2
    matrix = np.stack([along, across, corner], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(frame, matrix, (WIDTH, HEIGHT), flags=flags), np.float32)


def _whole(scene: Scene) -> FloatMap:
    """The scene's cover on the whole frame."""
    whole = np.zeros_like(scene.grey)
    whole[scene.rows, scene.columns] = scene.cover
    return whole
