"""Good parts -> a filled memory and the units of its readings; nothing is trained (docs/scores.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.detection import Asked, even_share, rejected
from calibration.errors import TooFewParts
from calibration.fitted import Doubles, Fitted
from calibration.made_defects import WANTED, MadeDefect, make_defects
from calibration.remember import Probes, fill_memory
from calibration.stages import Progress
from engines.networks.families import new_network
from engines.scoring import READINGS, MemoryConstants, ScoringConstants, Units
from engines.settings import CanvasSettings, ModelSettings, RegionSettings
from engines.teachers import load_teachers

Images = NDArray[np.uint8]
LEAST_PARTS: Final = 5
MADE_OF_EACH: Final = 8
"""Made defects of each kind and size."""
MADE: Final = MADE_OF_EACH * len(WANTED)
LEAST_GAIN: Final = 0.02
"""Share of the made defects, each size counting the same, that the mean must catch beyond the highest cell."""
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
    made: int = MADE,
    choose: bool = True,
) -> Fitted:
    """Remember good part images (P, H, W, 3) uint8 RGB; groups: (P,) the part that each shows.

    Each part, and each of `made` made defects, is scored by what the other parts tell. Whether the mean counts is
    decided by the share of them that is caught at the limit; without `choose` the highest cell counts alone. Takes
    seconds; raises TooFewParts, WeightsError.
    """
    if len(np.unique(groups)) < LEAST_PARTS:
        raise TooFewParts(f"{len(np.unique(groups))} good parts: a memory needs at least {LEAST_PARTS}")
    network = new_network(model, canvas, regions, load_teachers(model, canvas, seed)).eval()
    first = first_images(groups)
    defects = make_defects(images[first], regions, made, seed)
    probes = Probes(np.stack([defect.image for defect in defects]), groups[first[[d.source for d in defects]]])
    recalled = fill_memory(
        network, images, groups, canvas=canvas, regions=regions, seed=seed, progress=progress, probes=probes
    )
    read = recalled.read[first]
    trial = _Trial(read, recalled.probed, sizes_of(defects), asked)
    ways = _compared(trial) if choose else (_way(trial, 1),)
    way = ways[0]
    return Fitted(
        network=network,
        losses={},
        constants=ScoringConstants(
            (1.0,) * len(regions), memory=MemoryConstants(way.names, way.units, recalled.surface)
        ),
        lambdas=(),
        held_out=first,
        part_scores=way.scores.max(axis=1),
        region_scores=way.scores,
        patch_gmsd=np.zeros(way.scores.shape),
        defects=tuple(defects),
        defect_scores=way.defect_scores,
        tried=tuple((" + ".join(each.names), each.caught) for each in ways),
        maps=recalled.maps[first],
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """What readings are chosen by: READINGS of good parts (P, V, R) and of made defects (Q, V, R), and the defects'
    sizes (Q,)."""

    read: Doubles
    probed: Doubles
    sizes: tuple[str, ...]
    asked: Asked


@dataclass(frozen=True, slots=True)
class _Way:
    """Readings that count: their names and units, region scores (P, R) and (Q, R), and the share of defects caught,
    each size counting the same."""

    names: tuple[str, ...]
    units: Units
    scores: Doubles
    defect_scores: Doubles
    caught: float


def _way(trial: _Trial, count: int) -> _Way:
    """The first so many of READINGS."""
    units = units_of(trial.read[:, :count])
    scores, defect_scores = in_units(trial.read[:, :count], units), in_units(trial.probed[:, :count], units)
    caught = even_share(trial.sizes, rejected(defect_scores, trial.asked.limits(scores)))
    return _Way(READINGS[:count], units, scores, defect_scores, caught)


def _compared(trial: _Trial) -> tuple[_Way, _Way]:
    """The readings that count, and the others that were tried: the highest cell alone, or the mean beside it.

    The mean joins where it lets LEAST_GAIN more be caught at the limit of both. Each size of defects counts the same:
    what a whole surface shows must not be outvoted by the many kinds of specks.
    """
    alone, both = _way(trial, 1), _way(trial, len(READINGS))
    return (both, alone) if both.caught >= alone.caught + LEAST_GAIN else (alone, both)


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
    first = first_images(groups)
    remembered = units_of(recalled.read[first][:, :1])
    imitated = units_of(features[:, None, :])

    def joined(read: Doubles, by_student: Doubles, whole: Doubles) -> tuple[Doubles, Doubles]:
        alone = in_units(read[:, :1], remembered)
        both = np.maximum(alone, in_units(by_student[:, None, :], imitated))
        return alone, both + (whole - by_student) / imitated.scale[0]

    alone, scores = joined(recalled.read[fitted.held_out], features, fitted.region_scores)
    defects_alone, defect_scores = joined(recalled.probed, fitted.defect_features, fitted.defect_scores)

    def share(good: Doubles, made: Doubles) -> float:
        return even_share(sizes_of(fitted.defects), rejected(made, asked.limits(good)))

    return replace(
        fitted,
        constants=replace(fitted.constants, memory=MemoryConstants(READINGS[:1], remembered), student=imitated),
        part_scores=scores.max(axis=1),
        region_scores=scores,
        defect_scores=defect_scores,
        tried=(
            ("memory and student", share(scores, defect_scores)),
            ("memory alone", share(alone, defects_alone)),
            ("student alone", share(fitted.region_scores, fitted.defect_scores)),
        ),
        maps=recalled.maps[fitted.held_out],
    )


def sizes_of(defects: Sequence[MadeDefect]) -> tuple[str, ...]:
    """The size of each defect."""
    return tuple(defect.size for defect in defects)


def first_images(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places (P',) of the first image of each part, in the images' order; groups: (P,) the part of each image."""
    return np.sort(np.unique(groups, return_index=True)[1])


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
