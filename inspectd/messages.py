"""The values that move through the line: Trigger, Frame, Scores or Fault, Verdict, Record. Frozen; imports only NumPy.

Clocks: `*_ns` fields are the monotonic clock (`time.monotonic_ns`), valid within one run of the daemon;
`*_wall_ns` fields are nanoseconds since 1970 (`time.time_ns`) and are for records only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
DeepImage = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W, 3) RGB as a camera gives it: of 8 bits, or of 16 where it has more."""
"""A bare array, (H, W, 3) uint8, RGB."""


class Outcome(StrEnum):
    """What is said of one part."""

    PASS = "PASS"  # noqa: S105 - a verdict
    REJECT = "REJECT"
    INVALID = "INVALID"


class Reason(StrEnum):
    """Why a verdict is what it is; every reason but the first two goes with INVALID."""

    WITHIN_LIMITS = "within_limits"
    OVER_THRESHOLD = "over_threshold"
    LATE = "late"
    NO_FRAME = "no_frame"
    NO_PART = "no_part"
    SEVERAL_PARTS = "several_parts"
    PART_CUT_OFF = "part_cut_off"
    OTHER_PART = "other_part"
    BAD_IMAGE = "bad_image"
    STALE_FRAME = "stale_frame"
    CAMERA_LOST = "camera_lost"
    REPEATED_IMAGE = "repeated_image"
    ENGINE_FAULT = "engine_fault"
    NOT_A_NUMBER = "not_a_number"
    OVERLOAD = "overload"
    SHUTTING_DOWN = "shutting_down"


class Action(StrEnum):
    """What the line does with the part."""

    ACCEPT = "accept"
    REJECT = "reject"
    STOP = "stop"


class Command(StrEnum):
    """What became of a reject that is tracked to its actuator."""

    SCHEDULED = "scheduled"
    HELD = "held"
    MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One part asks to be inspected. `encoder`: the belt's raw count at the trigger, where it was told.

    sent_id: what was sent as the part's name, where that could not be its name. overdue: its deadline had passed, but
    for the margin of an answer, when it was read: nobody here is late with it.
    """

    station: str
    seq: int
    part_id: str
    trigger_ns: int
    trigger_wall_ns: int
    deadline_ns: int
    encoder: int | None = None
    sent_id: str = ""
    overdue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shed:
    """Parts that cannot be judged in time, because too many came at once: each is answered INVALID (overload)."""

    triggers: tuple[Trigger, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where the belt is: the encoder's raw count, and when it was read."""

    count: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The camera's answer to a trigger. `source` names the file or video position, `label` the truth where known."""

    seq: int
    part_id: str
    trigger_ns: int
    captured_ns: int
    deadline_ns: int
    image: DeepImage
    exposure_us: float | None = None
    source: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where the part lay in the frame; scale = frame pixels per part-image pixel."""

    x_px: float
    y_px: float
    angle_deg: float
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What the engine says of one part. `part_image` is (H, W, 3) uint8 RGB; maps are float32 or None.

    thresholds and bundle_hash: of the bundle whose engine gave these scores, which alone may judge them.
    brightness and sharpness are those of the part image, as `engines.part_statistics` measures them.
    """

    seq: int
    part_id: str
    part_score: float
    region_scores: tuple[tuple[str, float], ...]
    thresholds: Thresholds
    bundle_hash: str
    captured_ns: int
    located_ns: int
    scored_ns: int
    pose: Pose | None = None
    brightness: float | None = None
    sharpness: float | None = None
    label: str = ""
    source: str = ""
    image: DeepImage | None = None
    part_image: Image | None = None
    anomaly_map: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A stage could not do its step for one part; becomes INVALID with this reason."""

    seq: int
    part_id: str
    reason: Reason
    detail: str
    captured_ns: int = 0
    label: str = ""
    source: str = ""
    image: DeepImage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits on the scores, from the bundle. A score above its limit rejects the part."""

    part: float
    regions: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """How a part is to be taken off: what became of the command, and when the actuator must act.

    The window is in time, in raw encoder counts or in both; None where it is not known. neighbour: another part in the
    same window that is not known to be rejected, or empty. detail: why the command was missed.
    """

    command: Command
    opens_ns: int | None = None
    closes_ns: int | None = None
    from_count: int | None = None
    to_count: int | None = None
    neighbour: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The one answer to one trigger. `reject`: of a tracked part that is to be taken off, else None.

    challenge: the name of a part that is known to be bad (`inspectd challenge`), empty for an ordinary one. sent_id,
    overdue: as the trigger has them; whether it came overdue is not recorded.
    """

    station: str
    seq: int
    part_id: str
    outcome: Outcome
    reason: Reason
    detail: str
    action: Action
    part_score: float | None
    region_scores: tuple[tuple[str, float], ...]
    thresholds: Thresholds
    bundle_hash: str
    trigger_ns: int
    trigger_wall_ns: int
    captured_ns: int
    scored_ns: int
    verdict_ns: int
    deadline_ns: int
    located_ns: int = 0
    label: str = ""
    encoder: int | None = None
    reject: Reject | None = None
    challenge: str = ""
    sent_id: str = ""
    overdue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldReject:
    """A held reject was told after its verdict, or was missed after all; recorded beside the verdict."""

    seq: int
    part_id: str
    reject: Reject
    told_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is stored of one part: the verdict, and the images where they are kept."""

    verdict: Verdict
    pose: Pose | None = None
    brightness: float | None = None
    sharpness: float | None = None
    source: str = ""
    image: DeepImage | None = None
    anomaly_map: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LateScores:
    """Scores that came after their part's deadline: recorded beside the verdict, never announced."""

    seq: int
    part_id: str
    part_score: float
    region_scores: tuple[tuple[str, float], ...]
    scored_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """The image of part `seq` is on disk: `path` is relative to the station's records folder; `sha256` of its bytes."""

    seq: int
    path: str
    size_bytes: int
    sha256: str = ""
