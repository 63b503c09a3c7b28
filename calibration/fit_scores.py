"""Good part images -> network, score constants, and scores of good parts by what was not taught or fitted with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.constants import fit_constants, in_one_pose
from calibration.detection import Asked
from calibration.device import CPU
from calibration.errors import TooFewParts
from calibration.fit_memory import MADE, beside_student, first_images, fit_memory
from calibration.fitted import Doubles, Fitted
from calibration.made_defects import make_defects
from calibration.regions import calibrate_lambdas
from calibration.stages import Progress
from calibration.train import Images, Trained, train
from engines.networks.calibrated import CalibratedTail
from engines.networks.fused import FusedEngine
from engines.networks.outputs import NetworkOutputs
from engines.networks.patch_gmsd import PatchGmsd
from engines.networks.teacher_network import TeacherNetwork
from engines.scoring import CalibratedConstants, ScoringConstants
from engines.settings import CanvasSettings, ModelSettings, RegionSettings, TrainingSettings

ENOUGH_TO_SPLIT = 100
"""Good parts from which a plain split is used; with fewer, students are cross-fitted so that each part counts twice."""
FOLDS = 3
"""Students of a cross-fit; where parts are enough to split, also groups that constants leave out to score them."""
FOLDS_OF_FEW = 32
"""Such groups of a cross-fit: constants without a third of a few parts are so much worse that limits come out wide."""
LEAST_PARTS = 12
RUN_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class _Unseen:
    """Outputs of networks that had not seen the parts, one entry per part; groups that constants leave out."""

    indices: NDArray[np.int64]
    outputs: list[NetworkOutputs]
    folds: int


Learn = Callable[[NDArray[np.int64], str], Trained]
"""Trains on the images with these indices, in a folder of that name."""


def fit(  # noqa: PLR0917  (what is learnt from, then how)
    images: Images,
    groups: NDArray[np.int64],
    model: ModelSettings,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    training: TrainingSettings,
    *,
    held_out: int,
    asked: Asked,
    seed: int,
    work: Path | None,
    progress: Progress,
    device: torch.device = CPU,
    made: int = MADE,
    choose: bool = True,
) -> Fitted:
    """Train on good part images (P, H, W, 3) uint8 RGB and fit the score to parts that training did not see.

    groups: (P,) the part that each image shows; images of one part stay on one side of every split. From
    ENOUGH_TO_SPLIT parts on, `held_out` of them are kept from training; with fewer, FOLDS students are trained
    without a fold each, and the final one on all. A memory knows all parts, and forgets the one that is scored. device:
    where training runs; scores are fitted on the processor, to what it gives. made, choose: as `fit_memory` has them,
    for stations without a student. Blocks for minutes, for seconds where
    nothing is trained; raises TooFewParts, WeightsError.
    """
    if not model.student:
        return fit_memory(
            images, groups, model, canvas, regions, asked=asked, seed=seed, progress=progress, made=made, choose=choose
        )
    shuffled = _shuffled_parts(groups, held_out, seed)
    divided = len(shuffled) >= ENOUGH_TO_SPLIT
    taught = partial(train, model=model, training=training, canvas=canvas, regions=regions, seed=seed, device=device)

    def learn(indices: NDArray[np.int64], name: str) -> Trained:
        folder = None if work is None else work / name
        return taught(images[indices], work=folder, progress=progress, parts=groups[indices])

    if divided:
        trained, unseen = _split(learn, images, groups, shuffled[:held_out], progress)
    else:
        trained, unseen = _cross_fitted(learn, images, groups, shuffled, progress)
    fitted = _fit_unseen(
        trained,
        unseen,
        images,
        groups,
        model=model,
        canvas=canvas,
        regions=regions,
        confidence=asked.confidence,
        seed=seed,
        progress=progress,
    )
    if not model.memory_patches:
        return fitted
    return beside_student(
        fitted, images, groups, canvas=canvas, regions=regions, asked=asked, seed=seed, progress=progress
    )


def _shuffled_parts(groups: NDArray[np.int64], held_out: int, seed: int) -> NDArray[np.int64]:
    """The parts in the order in which they are held out. Raises TooFewParts, ValueError for a wrong `held_out`."""
    parts = np.unique(groups)
    if len(parts) < LEAST_PARTS:
        raise TooFewParts(f"{len(parts)} good parts: the score needs at least {LEAST_PARTS}")
    if len(parts) >= ENOUGH_TO_SPLIT and not 0 < held_out < len(parts):
        raise ValueError(f"{held_out} of {len(parts)} parts cannot be held out")
    return np.random.default_rng([seed, len(parts)]).permutation(parts)


def _split(
    learn: Learn, images: Images, groups: NDArray[np.int64], kept: NDArray[np.int64], progress: Progress
) -> tuple[Trained, _Unseen]:
    """A network that has not seen the parts `kept`, and what it says of them."""
    held_out = np.flatnonzero(np.isin(groups, kept))
    trained = learn(np.setdiff1d(np.arange(len(images)), held_out), "student")
    outputs = _run(trained.network, images[held_out], progress)
    return trained, _Unseen(held_out, outputs, FOLDS)


def _cross_fitted(
    learn: Learn, images: Images, groups: NDArray[np.int64], shuffled: NDArray[np.int64], progress: Progress
) -> tuple[Trained, _Unseen]:
    """A network that has seen all parts, and what networks that were trained without a fold each say of it."""
    everything = np.arange(len(images))
    folds = [np.flatnonzero(np.isin(groups, shuffled[fold::FOLDS])) for fold in range(FOLDS)]
    outputs: list[NetworkOutputs] = []
    for number, kept in enumerate(folds):
        student = learn(np.setdiff1d(everything, kept), f"fold-{number}")
        outputs += _run(student.network, images[kept], progress)
    return learn(everything, "student"), _Unseen(np.concatenate(folds), outputs, FOLDS_OF_FEW)


def _fit_unseen(
    trained: Trained,
    unseen: _Unseen,
    images: Images,
    groups: NDArray[np.int64],
    *,
    model: ModelSettings,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
    confidence: float,
    seed: int,
    progress: Progress,
) -> Fitted:
    """Region weights and constants from all unseen parts; each part's scores by constants fitted without it.

    All but the scale that highest cells are brought to: that is one for all parts. A scale without the part would move
    it against the others, and most the part that is furthest out.
    """
    gmsd = _patch_gmsd(unseen.outputs, canvas, regions, model)
    names = [region.name for region in regions]
    lambdas = calibrate_lambdas(gmsd, names, confidence=confidence, seed=seed) if model.decoder else ()
    weights = tuple(weight.value for weight in lambdas) or (1.0,) * len(regions)
    weighted = gmsd * np.array(weights)
    fitted = partial(_constants, unseen.outputs, weighted, model=model, canvas=canvas, regions=regions)
    owners = groups[unseen.indices]
    canonical = model.score != "paper" and in_one_pose(unseen.outputs)
    whole = fitted(np.arange(len(owners)), canonical)

    def fused(rows: NDArray[np.int64]) -> FusedEngine:
        constants = fitted(rows, canonical)
        if constants is not None and whole is not None:
            constants = constants.on_scale_of(whole)
        return FusedEngine(trained.network, model, canvas, regions, ScoringConstants(weights, constants))

    part_scores, region_scores, features = _left_out_scores(unseen, owners, fused, len(regions), seed, progress)
    order = np.argsort(unseen.indices)
    order = order[first_images(owners[order])]
    held_out = unseen.indices[order]
    defects = make_defects(images[held_out], regions, MADE, seed)
    with torch.inference_mode():
        seen = _run(trained.network, np.stack([defect.image for defect in defects]), progress, "made defects")
        tail = fused(np.arange(len(owners))).tail
        defect_scores = np.stack([tail(outputs)[1][0].numpy() for outputs in seen]).astype(np.float64)
        defect_features = defect_scores
        if isinstance(tail, CalibratedTail):
            defect_features = np.stack([tail.features(each)[0][0].numpy() for each in seen]).astype(np.float64)
    return Fitted(
        network=trained.network,
        losses=trained.losses,
        constants=ScoringConstants(weights, whole),
        lambdas=lambdas,
        held_out=held_out,
        defects=tuple(defects),
        defect_scores=defect_scores,
        defect_features=defect_features,
        part_scores=part_scores[order],
        region_scores=region_scores[order],
        patch_gmsd=gmsd[order],
        feature_scores=features[order],
    )


def _constants(
    outputs: Sequence[NetworkOutputs],
    weighted_gmsd: Doubles,
    rows: NDArray[np.int64],
    canonical: bool,
    *,
    model: ModelSettings,
    canvas: CanvasSettings,
    regions: Sequence[RegionSettings],
) -> CalibratedConstants | None:
    """Fitted to the entries with these indices; None where the score has none."""
    if model.score == "paper":
        return None
    chosen = [outputs[row] for row in rows]
    return fit_constants(chosen, weighted_gmsd[rows], canvas, regions, model, canonical=canonical)


def _left_out_scores(  # noqa: PLR0917  (what is scored, then how)
    unseen: _Unseen,
    owners: NDArray[np.int64],
    fused: Callable[[NDArray[np.int64]], FusedEngine],
    regions: int,
    seed: int,
    progress: Progress,
) -> tuple[Doubles, Doubles, Doubles]:
    """Part scores (P',), region scores and those of features alone (P', R), by constants without the part's own group.

    owners: (P',) the part that each entry shows. fused: fits to the entries with these indices.
    """
    shuffled = np.random.default_rng([seed, len(owners)]).permutation(np.unique(owners))
    part_scores, region_scores = np.zeros(len(owners)), np.zeros((len(owners), regions))
    features = np.zeros((len(owners), regions))
    folds = min(unseen.folds, len(shuffled))
    for fold in range(folds):
        inside = np.isin(owners, shuffled[fold :: unseen.folds])
        tail = fused(np.flatnonzero(~inside)).tail
        with torch.inference_mode():
            for row in np.flatnonzero(inside):
                part, by_region, _ = tail(unseen.outputs[row])
                part_scores[row], region_scores[row] = float(part[0]), by_region[0].numpy()
                if isinstance(tail, CalibratedTail):
                    features[row] = tail.features(unseen.outputs[row])[0][0].numpy()
        progress("left-out scores", fold + 1, folds)
    return part_scores, region_scores, features


def _run(
    network: TeacherNetwork, images: Images, progress: Progress, what: str = "held-out parts"
) -> list[NetworkOutputs]:
    """Outputs of each image by itself; RUN_TOGETHER of them pass through the network at once, which is faster."""
    outputs: list[NetworkOutputs] = []
    with torch.inference_mode():
        for chunk in torch.split(torch.from_numpy(images), RUN_TOGETHER):
            outputs += network(chunk).singly()
            progress(what, len(outputs), len(images))
    return outputs


def _patch_gmsd(
    outputs: Sequence[NetworkOutputs], canvas: CanvasSettings, regions: Sequence[RegionSettings], model: ModelSettings
) -> Doubles:
    """Patch_GMSD_r of each part, (P', R); zeros without a decoder."""
    if not model.decoder:
        return np.zeros((len(outputs), len(regions)))
    module = PatchGmsd(canvas, regions, model.patch_gmsd)
    rows: list[Tensor] = []
    with torch.inference_mode():
        for part in outputs:
            if part.reconstruction is None:
                raise ValueError("the network has no decoder, the settings ask for one")
            rows.append(module(part.grey, part.reconstruction)[0])
    return torch.stack(rows).double().numpy()
