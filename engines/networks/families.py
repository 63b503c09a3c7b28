"""The one place where a family's name becomes its networks and its tail for `score: paper`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from torch import nn

from engines.networks.discriminator import Discriminator, new_discriminator
from engines.networks.dtkd import DtkdNetwork
from engines.networks.rd_feature_mask import RdFeatureMask
from engines.networks.rd_two_teachers import RdTwoTeachers
from engines.networks.stpm import StpmNetwork, StpmTail
from engines.networks.tail import PaperTail
from engines.networks.tails import ReverseTail
from engines.networks.teacher_student import TeacherStudent
from engines.settings import CanvasSettings, Family, ModelSettings, RegionSettings
from engines.teachers import Teacher

NETWORKS: Final[Mapping[Family, Callable[[ModelSettings, Sequence[Teacher], Discriminator | None], TeacherStudent]]] = {
    "dtkd": DtkdNetwork,
    "stpm": StpmNetwork,
    "rd_two_teachers": RdTwoTeachers,
    "rd_feature_mask": RdFeatureMask,
}


def new_network(
    model: ModelSettings, canvas: CanvasSettings, regions: Sequence[RegionSettings], teachers: Sequence[Teacher]
) -> TeacherStudent:
    """The untrained network of the settings' family around these teachers; draws its weights from torch's generator."""
    return NETWORKS[model.family](model, teachers, new_discriminator(model, canvas, regions))


def paper_tail(
    network: TeacherStudent, canvas: CanvasSettings, regions: Sequence[RegionSettings], lambdas: Sequence[float]
) -> nn.Module:
    """The family's own score: NetworkOutputs -> part_score (N,), region_scores (N, R), anomaly_map (N, H_1, W_1)."""
    if isinstance(network, StpmNetwork):
        return StpmTail(canvas, regions)
    if isinstance(network, RdTwoTeachers | RdFeatureMask):
        return ReverseTail(canvas, regions)
    first = [widths[0] for widths in network.channels]
    return PaperTail(network.model, canvas, regions, first, lambdas)
