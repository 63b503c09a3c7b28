"""Good parts -> a filled memory and the units of its readings; nothing is trained (docs/scores.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.detection import Asked, rejected
from calibration.errors import TooFewParts
from calibration.fitted import Doubles, Fitted
from calibration.made_defects import make_defects
from calibration.remember import Probes, fill_memory
from calibration.stages import Progress
from engines.networks.families import new_network
from engines.networks.memory_tail import Readings
from engines.scoring import ScoringConstants, Units
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import load_teachers

Images = NDArray[np.uint8]
LEAST_PARTS: Final = 5
READINGS: Final = 2
"""Ways to read a region of the distance map: its highest cell, and its mean."""
NAMES: Final = ("memory, highest cell", "memory, highest cell and mean")
MADE: Final = 216
"""Defects that are made: eight of each kind and size."""
LEAST_GAIN: Final = 0.01
"""Share of the made defects that one more reading must catch beyond those caught without it."""
UPPER: Final = 0.9
"""Quantile of good parts' readings that is 1 in units."""
LEAST_SPREAD: Final = 0.02
"""Of the median: a unit below it would be rounding and chance."""


def fit_memory(
    images: Images,
    groups: NDArray[np.int64],
    model: ModelSettings,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    *,
    asked: Asked,
    seed: int,
    progress: Progress,
) -> Fitted:
    """Remember good part images (P, H, W, 3) uint8 RGB; groups: (P,) the part that each shows.

    Each part, and each made defect on it, is scored by a memory of the other parts. A region's mean counts beside its
    highest cell where more made defects are then caught at the limit. Takes seconds; raises TooFewParts, WeightsError.
    """
    if len(np.unique(groups)) < LEAST_PARTS:
        raise TooFewParts(f"{len(np.unique(groups))} good parts: a memory needs at least {LEAST_PARTS}")
    network = new_network(model, canvas, regions, load_teachers(model, canvas, seed)).eval()
    first = np.sort(np.unique(groups, return_index=True)[1])
    defects = make_defects(images[first], regions, MADE, seed)
    probes = Probes(np.stack([defect.image for defect in defects]), groups[first[[d.source for d in defects]]])
    recalled = fill_memory(
        network, images, groups, canvas=canvas, regions=regions, seed=seed, progress=progress, probes=probes
    )
    read = readings(recalled.maps[first], canvas, regions)
    probed = readings(recalled.probes, canvas, regions)
    ways = [_way(read[:, :count], probed[:, :count], asked) for count in range(1, READINGS + 1)]
    best = 0
    for other in range(1, len(ways)):
        if ways[other].caught >= ways[best].caught + LEAST_GAIN:
            best = other
    order = [best, *(place for place in range(len(ways)) if place != best)]
    return Fitted(
        network=network,
        losses={},
        constants=ScoringConstants((1.0,) * len(regions), memory=ways[best].units),
        lambdas=(),
        held_out=first,
        part_scores=ways[best].scores.max(axis=1),
        region_scores=ways[best].scores,
        patch_gmsd=np.zeros(ways[best].scores.shape),
        defects=tuple(defects),
        defect_scores=ways[best].defect_scores,
        tried=tuple((NAMES[place], ways[place].caught) for place in order),
        maps=recalled.maps[first],
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to read the maps: its units, region scores (P, R) and (Q, R), and the share of made defects caught."""

    units: Units
    scores: Doubles
    defect_scores: Doubles
    caught: float


def _way(read: Doubles, probed: Doubles, asked: Asked) -> _Way:
    units = units_of(read)
    scores, defect_scores = in_units(read, units), in_units(probed, units)
    return _Way(units, scores, defect_scores, float(rejected(defect_scores, asked.limits(scores)).mean()))


def beside_student(
    fitted: Fitted,
    images: Images,
    groups: NDArray[np.int64],
    *,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    asked: Asked,
    seed: int,
    progress: Progress,
) -> Fitted:
    """A trained student's score with a memory of all good parts beside it: the higher of the two, each in its units.

    Patch_GMSD is added to that, as the engine does it. What the memory and the student catch alone is told beside.
    """
    features = fitted.feature_scores
    if features is None or fitted.defect_features is None:
        raise ValueError("no student was fitted")
    sources = groups[fitted.held_out[[defect.source for defect in fitted.defects]]]
    probes = Probes(np.stack([defect.image for defect in fitted.defects]), sources)
    recalled = fill_memory(
        fitted.network, images, groups, canvas=canvas, regions=regions, seed=seed, progress=progress, probes=probes
    )
    first = np.sort(np.unique(groups, return_index=True)[1])
    own = recalled.maps[fitted.held_out]
    remembered = units_of(readings(recalled.maps[first], canvas, regions)[:, :1])
    imitated = units_of(features[:, None, :])

    def joined(maps: NDArray[np.float32], by_student: Doubles, whole: Doubles) -> tuple[Doubles, Doubles]:
        alone = in_units(readings(maps, canvas, regions)[:, :1], remembered)
        both = np.maximum(alone, in_units(by_student[:, None, :], imitated))
        return alone, both + (whole - by_student) / imitated.scale[0]

    alone, scores = joined(own, features, fitted.region_scores)
    defects_alone, defect_scores = joined(recalled.probes, fitted.defect_features, fitted.defect_scores)

    def share(good: Doubles, made: Doubles) -> float:
        return float(rejected(made, asked.limits(good)).mean())

    return replace(
        fitted,
        constants=replace(fitted.constants, memory=remembered, student=imitated),
        part_scores=scores.max(axis=1),
        region_scores=scores,
        defect_scores=defect_scores,
        tried=(
            ("memory and student", share(scores, defect_scores)),
            ("memory alone", share(alone, defects_alone)),
            ("student alone", share(fitted.region_scores, fitted.defect_scores)),
        ),
        maps=own,
    )


def readings(maps: NDArray[np.float32], canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> Doubles:
    """Distance maps (P, h, w) -> what is read off each region, (P, V, R)."""
    with torch.no_grad():
        cells = (maps.shape[1], maps.shape[2])
        read = Readings(canvas, regions, READINGS, cells)(torch.from_numpy(maps).unsqueeze(1))
    return read.double().numpy()  # type: ignore[no-any-return]


def units_of(read: Doubles) -> Units:
    """Units of readings (P, V, R) of good parts: median, and from there to the UPPER quantile; robust to the oddest."""
    middle = np.median(read, axis=0)
    spread = np.quantile(read, UPPER, axis=0) - middle
    least = np.maximum(LEAST_SPREAD * np.abs(middle), 1e-3)
    return Units(middle.astype(np.float32), np.maximum(spread, least).astype(np.float32))


def in_units(read: Doubles, units: Units) -> Doubles:
    """Region scores (P, R) of readings (P, V, R): the highest of them, as the engine has it."""
    scores: Doubles = ((read - units.location) / units.scale).max(axis=1)
    return scores
