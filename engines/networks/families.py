"""The one place where a family's name becomes its networks and its tail for `score: paper`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import nn

from engines.networks.discriminator import Discriminator, new_discriminator
from engines.networks.dtkd import DtkdNetwork
from engines.networks.rd_feature_mask import RdFeatureMask
from engines.networks.rd_two_teachers import RdTwoTeachers
from engines.networks.stpm import StpmNetwork, StpmTail
from engines.networks.tail import PaperTail
from engines.networks.tails import ReverseTail
from engines.networks.teacher_network import TeacherNetwork
from engines.networks.teacher_student import TeacherStudent
from engines.scoring import region_masks
from engines.settings import CanvasSettings, Family, ModelSettings, RegionSettings
from engines.teachers import Teacher, memory_grid

NETWORKS: Final[Mapping[Family, Callable[[ModelSettings, Sequence[Teacher], Discriminator | None], TeacherStudent]]] = {
    "dtkd": DtkdNetwork,
    "stpm": StpmNetwork,
    "rd_two_teachers": RdTwoTeachers,
    "rd_feature_mask": RdFeatureMask,
}


def new_network(
    model: ModelSettings, canvas: CanvasSettings, regions: Sequence[RegionSettings], teachers: Sequence[Teacher]
) -> TeacherNetwork:
    """The network that the settings ask for around these teachers, its memory empty and its student untrained.

    A TeacherStudent of the settings' family, which draws its weights from torch's generator, or for `score: memory` the
    teachers and the memory alone.
    """
    network = (
        NETWORKS[model.family](model, teachers, new_discriminator(model, canvas, regions))
        if model.student
        else TeacherNetwork(model, teachers)
    )
    if network.memory is not None:
        cells = memory_grid(model.teachers[0], canvas)
        masks = region_masks(canvas.height_px, canvas.width_px, regions, cells)
        network.memory.look_within(torch.from_numpy(masks.any(axis=0)))
    return network


def paper_tail(
    network: TeacherNetwork, canvas: CanvasSettings, regions: Sequence[RegionSettings], lambdas: Sequence[float]
) -> nn.Module:
    """The family's own score: NetworkOutputs -> part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""
    if isinstance(network, StpmNetwork):
        return StpmTail(canvas, regions)
    if isinstance(network, RdTwoTeachers | RdFeatureMask):
        return ReverseTail(canvas, regions)
    first = [widths[0] for widths in network.widths[: network.model.levels]]
    return PaperTail(network.model, canvas, regions, first, lambdas)
