"""Good part images -> trained network, score constants, and which parts can speak for parts not seen yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.regions import calibrate_lambdas
from calibration.train import train
from engines.artifact import Lambda, SettingsSnapshot
from engines.networks.dtkd import DtkdNetwork
from engines.networks.patch_gmsd import PatchGmsd
from engines.scoring import ScoringConstants
from engines.settings import TrainingSettings
from engines.teachers import WeightsInfo

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What calibration learnt.

    held_out: (P',) indices of the good parts that may choose limits. crossed: their (P',) part and (P', R) region
    scores where cross-fitting gave them, None where the final network itself has not seen these parts.
    """

    network: DtkdNetwork
    constants: ScoringConstants
    lambdas: tuple[Lambda, ...]
    held_out: NDArray[np.int64]
    crossed: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    weights: tuple[WeightsInfo, ...]
    curves: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)


def learn(
    images: NDArray[np.uint8],
    part_ids: tuple[str, ...],
    snapshot: SettingsSnapshot,
    training: TrainingSettings,
    *,
    held_out_share: float,
    confidence: float,
    seed: int,
    work: Path,
    progress: Progress,
) -> Learnt:
    """Train on most parts, weigh the regions on the others."""
    order = np.random.default_rng(seed).permutation(len(images))
    count = max(8, round(held_out_share * len(images)))
    held_out, trained = np.sort(order[:count]), np.sort(order[count:])
    network = train(images[trained], snapshot.model, training, seed, work, progress)
    lambdas: tuple[Lambda, ...] = ()
    if network.decoder is not None:
        gmsd = PatchGmsd(snapshot.canvas, snapshot.regions, snapshot.model.patch_gmsd)
        rows = []
        with torch.inference_mode():
            for done, index in enumerate(held_out):
                outputs = network(torch.from_numpy(images[index][None]))
                rows.append(gmsd(outputs.grey, outputs.reconstruction)[0].numpy())
                progress("weigh regions", done + 1, len(held_out))
        lambdas = calibrate_lambdas(
            np.stack(rows), [region.name for region in snapshot.regions], confidence=confidence, seed=seed
        )
    return Learnt(
        network=network,
        constants=ScoringConstants(tuple(weight.value for weight in lambdas) or (1.0,) * len(snapshot.regions)),
        lambdas=lambdas,
        held_out=held_out,
        crossed=None,
        weights=tuple(teacher.weights for teacher in network.teachers),
    )
