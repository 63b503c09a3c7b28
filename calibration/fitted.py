"""What good parts were learnt into: a network, its score, and what that says of parts that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.made_defects import MadeDefect
from engines.artifact import Lambda
from engines.networks.teacher_network import TeacherNetwork
from engines.scoring import ScoringConstants

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The network, the loss of each step of its training by stage, and its score.

    held_out: (P',) indices of one image, the first, of each part whose scores may choose limits; part_scores (P',),
    region_scores (P', R) and patch_gmsd (P', R; zeros without a decoder) are theirs, each by networks, by a memory and
    by constants that have not seen this part. feature_scores (P', R) and defect_features (Q, R): what region scores
    are without Patch_GMSD, None where nothing is trained. maps: (P', h, w) distances to the memory of the other parts,
    None without one.
    defects: made defects on held-out parts, scored like these: defect_scores (Q, R). tried: the ways to score that were
    compared, in words, and the share of made defects that each catches at its limit; the first is the one that counts.
    """

    network: TeacherNetwork
    losses: Mapping[str, NDArray[np.float32]]
    constants: ScoringConstants
    lambdas: tuple[Lambda, ...]
    held_out: NDArray[np.int64]
    part_scores: Doubles
    region_scores: Doubles
    patch_gmsd: Doubles
    defects: tuple[MadeDefect, ...] = ()
    defect_scores: Doubles
    tried: tuple[tuple[str, float], ...] = ()
    feature_scores: Doubles | None = None
    defect_features: Doubles | None = None
    maps: NDArray[np.float32] | None = None
