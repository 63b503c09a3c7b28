"""From a frame's foreground to where its part should be, or to why there is no one part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engines.alignment.foreground import Blobs
from engines.alignment.template import PartTemplate

Fault = Literal["no_part", "several_parts", "part_cut_off", "other_part"]

LEAST_SHARE = 0.12
PIECE_SHARE = 0.05
SECOND_PART_SHARE = 0.5
TWO_PARTS_SHARE = 1.5
SLIVER_SHARE = 0.01


class Misaligned(Exception):
    """There is no one learnt part to judge: why, one line for people, and the score where one was taken."""

    def __init__(self, fault: Fault, detail: str, score: float | None = None) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault: Fault = fault
        self.detail = detail
        self.score = score


@dataclass(frozen=True, slots=True)
class Guess:
    """Frame pixels and scale from the foreground's moments. crowded: it is larger than one part."""

    x: float
    y: float
    scale: float
    touching: bool
    crowded: bool


class Guesser:
    """Judges the foreground by a template's size."""

    def __init__(self, template: PartTemplate) -> None:
        self._template = template
        self._diameter_px, self._area_px = template.diameter_px, template.area_px

    def from_blobs(self, blobs: Blobs, factor: int) -> Guess:
        """Where the foreground of a frame shrunk by `factor` suggests the part.

        Raises Misaligned where there is none, or more than one.
        """
        template = self._template
        least = self._area_px * template.least_scale**2 / factor**2
        most = self._area_px * template.largest_scale**2 / factor**2
        if not blobs.areas.size or blobs.areas[0] < LEAST_SHARE * least:
            if (blobs.areas[blobs.touching] >= SLIVER_SHARE * least).any():
                raise Misaligned("part_cut_off", "only a piece of a part, at the edge of the frame")
            raise Misaligned("no_part", "nothing of a part's size stands out from the background")
        if blobs.areas.size > 1 and blobs.areas[1] >= SECOND_PART_SHARE * least:
            together = blobs.areas[0] + blobs.areas[1]
            if together >= TWO_PARTS_SHARE * least:
                raise Misaligned("several_parts", f"{int((blobs.areas >= SECOND_PART_SHARE * least).sum())} parts")
        reach = 0.6 * self._diameter_px * template.largest_scale / factor
        near = np.hypot(*(blobs.centres - blobs.centres[0]).T) <= reach
        counted = near & (blobs.areas >= PIECE_SHARE * least)
        counted[0] = True
        areas = blobs.areas[counted]
        x, y = (areas @ blobs.centres[counted] / areas.sum()).tolist()
        offset = (factor - 1) / 2
        scale = factor * math.sqrt(float(areas.sum()) / self._area_px)
        return Guess(
            x * factor + offset,
            y * factor + offset,
            min(max(scale, template.least_scale), template.largest_scale),
            touching=bool((blobs.touching & counted).any()),
            crowded=float(areas.sum()) >= TWO_PARTS_SHARE * most,
        )
