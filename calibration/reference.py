"""Held-out good parts -> what the daemon's drift watch compares the line with: scores, looks and poses, one a part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from calibration.fitted import Fitted
from engines.artifact import Statistic, ThresholdSet
from engines.part_statistics import appearance


def reference(
    images: NDArray[np.uint8],
    poses: Mapping[str, NDArray[np.float64]],
    *,
    fitted: Fitted,
    limits: ThresholdSet,
) -> dict[str, Statistic]:
    """The quantities of held-out good parts that pass, one image of each part; empty where none passes.

    images: (P, H, W, 3) uint8 RGB part images, poses: (P,) arrays by name. The daemon looks
    at passed parts, so only parts below every limit count; strictly below, because a limit that is the score of one of
    these parts cuts off the others and the line's alike, but not itself.
    """
    scores = {"part_score": (fitted.part_scores, limits.part.value)}
    for index, (name, limit) in enumerate(limits.regions.items()):
        scores[f"region_score.{name}"] = (fitted.region_scores[:, index], limit.value)
    passed = np.flatnonzero(np.all([values < limit for values, limit in scores.values()], axis=0))
    looks = [appearance(images[index]) for index in fitted.held_out[passed]]
    found = {
        **{name: values[passed] for name, (values, _) in scores.items()},
        "brightness": np.array([look.brightness for look in looks]),
        "sharpness": np.array([look.sharpness for look in looks]),
        **{name: values[fitted.held_out[passed]] for name, values in poses.items()},
    }
    return {name: Statistic.of(values) for name, values in found.items() if values.size}
