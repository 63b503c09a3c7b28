"""Good parts -> a filled memory and the units of its readings; nothing is trained (docs/scores.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.errors import TooFewParts
from calibration.fitted import Doubles, Fitted
from calibration.remember import fill_memory
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
    seed: int,
    progress: Progress,
) -> Fitted:
    """Remember good part images (P, H, W, 3) uint8 RGB; groups: (P,) the part that each shows.

    Each part is scored by a memory of the others. Takes seconds; raises TooFewParts, WeightsError.
    """
    if len(np.unique(groups)) < LEAST_PARTS:
        raise TooFewParts(f"{len(np.unique(groups))} good parts: a memory needs at least {LEAST_PARTS}")
    network = new_network(model, canvas, regions, load_teachers(model, seed)).eval()
    maps = fill_memory(network, images, groups, canvas=canvas, regions=regions, seed=seed, progress=progress)
    first = np.sort(np.unique(groups, return_index=True)[1])
    read = readings(maps[first], canvas, regions)
    units = units_of(read)
    scores = in_units(read, units)
    return Fitted(
        network=network,
        losses={},
        constants=ScoringConstants((1.0,) * len(regions), memory=units),
        lambdas=(),
        held_out=first,
        part_scores=scores.max(axis=1),
        region_scores=scores,
        patch_gmsd=np.zeros(scores.shape),
        maps=maps[first],
    )


def beside_student(
    fitted: Fitted,
    images: Images,
    groups: NDArray[np.int64],
    *,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    seed: int,
    progress: Progress,
) -> Fitted:
    """A trained student's score with a memory of all good parts beside it: the higher of the two, each in its units.

    Patch_GMSD is added to that, as the engine does it.
    """
    features = fitted.feature_scores
    if features is None:
        raise ValueError("no student was fitted")
    maps = fill_memory(fitted.network, images, groups, canvas=canvas, regions=regions, seed=seed, progress=progress)
    first = np.sort(np.unique(groups, return_index=True)[1])
    remembered = units_of(readings(maps[first], canvas, regions))
    imitated = units_of(features[:, None, :])
    own = maps[fitted.held_out]
    scores = np.maximum(in_units(readings(own, canvas, regions), remembered), in_units(features[:, None, :], imitated))
    scores += (fitted.region_scores - features) / imitated.scale[0]
    return replace(
        fitted,
        constants=replace(fitted.constants, memory=remembered, student=imitated),
        part_scores=scores.max(axis=1),
        region_scores=scores,
        maps=own,
    )


def readings(maps: NDArray[np.float32], canvas: CanvasSettings, regions: Sequence[RegionSettings]) -> Doubles:
    """Distance maps (P, h, w) -> what is read off each region, (P, V, R)."""
    with torch.no_grad():
        read = Readings(canvas, regions, READINGS)(torch.from_numpy(maps).unsqueeze(1))
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
