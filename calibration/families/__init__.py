"""Each family's stage one: what its student learns, and by which loss."""

from __future__ import annotations

from calibration.families import dtkd, rd_feature_mask, rd_two_teachers, stpm
from calibration.stages import Stage
from calibration.targets import Targets
from engines.networks.dtkd import DtkdNetwork
from engines.networks.rd_feature_mask import RdFeatureMask
from engines.networks.rd_two_teachers import RdTwoTeachers
from engines.networks.stpm import StpmNetwork
from engines.networks.teacher_student import TeacherStudent
from engines.settings import TrainingSettings


def student_stage(network: TeacherStudent, targets: Targets, training: TrainingSettings, seed: int) -> Stage:
    """The stage that trains `network.students()` on the good parts behind `targets`."""
    if isinstance(network, DtkdNetwork):
        return dtkd.student_stage(network, targets, training, seed)
    if isinstance(network, StpmNetwork):
        return stpm.student_stage(network, targets, training, seed)
    if isinstance(network, RdTwoTeachers):
        return rd_two_teachers.student_stage(network, targets, training, seed)
    if isinstance(network, RdFeatureMask):
        return rd_feature_mask.student_stage(network, targets, training, seed)
    raise TypeError(f"no training for {type(network).__name__}")
