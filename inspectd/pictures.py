"""Pictures for people: part, anomaly map and verdict side by side, many on one sheet. Off the verdict path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from inspectd.errors import StorageError
from inspectd.messages import Image, Outcome

MARGIN_PX = 6
CAPTION_PX = 36
LEAST_PART_PX = 192
FONT = cv2.FONT_HERSHEY_SIMPLEX
BACKGROUND = (250, 250, 250)
INK = (40, 40, 40)
COLOURS = {Outcome.PASS: (30, 140, 60), Outcome.REJECT: (200, 40, 40), Outcome.INVALID: (190, 130, 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One part on a sheet; `limit` is the value of `anomaly_map` (H1, W1) that is drawn as full red."""

    part_image: Image
    anomaly_map: NDArray[np.float32]
    limit: float
    outcome: Outcome
    title: str
    subtitle: str = ""


def overlay(part_image: Image, anomaly_map: NDArray[np.float32], limit: float) -> Image:
    """Draw a map over a part image (H, W, 3): untouched at 0, fully coloured at `limit` and above."""
    height, width = part_image.shape[:2]
    large = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
    strength = np.clip(large / max(limit, float(np.finfo(np.float32).tiny)), 0.0, 1.0)
    heat = cv2.cvtColor(cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    weight = 0.75 * strength[..., None]
    mixed: Image = (part_image * (1 - weight) + heat * weight).astype(np.uint8)
    return mixed


def sheet(tiles: Sequence[Tile], columns: int = 4) -> Image:
    """Lay tiles out in rows; returns (H, W, 3) uint8 RGB. All part images must have the same shape."""
    drawn = [_draw(tile) for tile in tiles]
    blank = np.full_like(drawn[0], 255)
    blank[:] = BACKGROUND
    drawn += [blank] * (-len(drawn) % columns)
    rows = [np.hstack(drawn[start : start + columns]) for start in range(0, len(drawn), columns)]
    return np.vstack(rows)


def write_png(path: Path, image: Image) -> None:
    """Write an RGB image as PNG. Raises StorageError with one line."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise StorageError(f"{path}: the picture cannot be encoded")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _draw(tile: Tile) -> Image:
    factor = max(1, round(LEAST_PART_PX / tile.part_image.shape[1]))
    pair = np.hstack([tile.part_image, overlay(tile.part_image, tile.anomaly_map, tile.limit)])
    pair = cv2.resize(pair, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    height, width = pair.shape[:2]
    canvas = np.empty((height + CAPTION_PX + 2 * MARGIN_PX, width + 2 * MARGIN_PX, 3), np.uint8)
    canvas[:] = BACKGROUND
    colour = COLOURS[tile.outcome]
    top = MARGIN_PX + CAPTION_PX
    canvas[top : top + height, MARGIN_PX : MARGIN_PX + width] = pair
    cv2.rectangle(canvas, (MARGIN_PX - 2, top - 2), (MARGIN_PX + width + 1, top + height + 1), colour, 2)
    verdict = tile.outcome.value
    cv2.putText(canvas, verdict, (MARGIN_PX, MARGIN_PX + 14), FONT, 0.5, colour, 1, cv2.LINE_AA)
    cv2.putText(canvas, tile.title, (MARGIN_PX + 70, MARGIN_PX + 14), FONT, 0.42, INK, 1, cv2.LINE_AA)
    cv2.putText(canvas, tile.subtitle, (MARGIN_PX, MARGIN_PX + 30), FONT, 0.38, INK, 1, cv2.LINE_AA)
    return canvas
