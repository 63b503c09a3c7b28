"""How what is recorded becomes a row of records.db, and how a part is read back from its rows."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from inspectd.errors import StorageError
from inspectd.messages import (
    Action,
    Command,
    LateScores,
    Outcome,
    Pose,
    Reason,
    Record,
    Reject,
    StoredImage,
    Thresholds,
    ToldReject,
    Verdict,
)
from inspectd.records.chain import Kind
from inspectd.records.tables import COLUMNS, NAMES

Value = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part as it was recorded. `image` is a path relative to the station's folder, or None where none is kept.

    late: scores that came after the verdict; told: a reject that was told after it; brightness and sharpness: of the
    part image, where they were measured.
    """

    verdict: Verdict
    pose: Pose | None
    source: str
    late: LateScores | None
    image: str | None
    brightness: float | None = None
    sharpness: float | None = None
    told: ToldReject | None = None


def content(row: Record | LateScores | StoredImage | ToldReject) -> tuple[Kind, dict[str, Value]]:
    """What a row is, and its values by column, as SQLite gives them back: None for what is not a number."""
    kind, values = _values(row)
    return kind, {name: storable(value) if isinstance(value, str) else value for name, value in values.items()}


def storable(text: str) -> str:
    """The text where UTF-8 has it; else with \\udcff for the byte ff of a file name that is no UTF-8, and the like."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _values(row: Record | LateScores | StoredImage | ToldReject) -> tuple[Kind, dict[str, Value]]:
    if isinstance(row, Record):
        return Kind.PART, _part(row)
    if isinstance(row, LateScores):
        scores = scores_to_json(row.region_scores)
        late = (row.seq, _stored(row.part_score), scores, row.scored_ns)
        return Kind.LATE, dict(zip(COLUMNS[Kind.LATE].split(", "), late, strict=True))
    if isinstance(row, ToldReject):
        told = (row.seq, _reject_to_json(row.reject), row.told_ns)
        return Kind.TOLD, dict(zip(COLUMNS[Kind.TOLD].split(", "), told, strict=True))
    image = (row.seq, row.path, row.size_bytes, row.sha256 or None)
    return Kind.IMAGE, dict(zip(COLUMNS[Kind.IMAGE].split(", "), image, strict=True))


def _part(record: Record) -> dict[str, Value]:
    verdict, pose = record.verdict, record.pose
    return {
        "seq": verdict.seq,
        "station": verdict.station,
        "part_id": verdict.part_id,
        "outcome": verdict.outcome.value,
        "reason": verdict.reason.value,
        "detail": verdict.detail,
        "action": verdict.action.value,
        "part_score": _stored(verdict.part_score),
        "region_scores": scores_to_json(verdict.region_scores),
        "part_threshold": _stored(verdict.thresholds.part),
        "region_thresholds": scores_to_json(verdict.thresholds.regions),
        "bundle_hash": verdict.bundle_hash,
        "trigger_wall_ns": verdict.trigger_wall_ns,
        "trigger_ns": verdict.trigger_ns,
        "captured_ns": verdict.captured_ns,
        "located_ns": verdict.located_ns,
        "scored_ns": verdict.scored_ns,
        "verdict_ns": verdict.verdict_ns,
        "deadline_ns": verdict.deadline_ns,
        "label": verdict.label,
        "source": record.source,
        "pose_x_px": _stored(pose.x_px if pose else None),
        "pose_y_px": _stored(pose.y_px if pose else None),
        "pose_angle_deg": _stored(pose.angle_deg if pose else None),
        "pose_scale": _stored(pose.scale if pose else None),
        "brightness": _stored(record.brightness),
        "sharpness": _stored(record.sharpness),
        "encoder": verdict.encoder,
        "reject": _reject_to_json(verdict.reject) if verdict.reject else None,
        "challenge": verdict.challenge or None,
        "sent_id": verdict.sent_id or None,
    }


def from_row(row: tuple[Any, ...]) -> StoredPart:
    """Read NAMES. Raises StorageError for values that cannot be."""
    found = dict(zip(NAMES, row, strict=True))
    try:
        return StoredPart(
            verdict=_verdict(found),
            pose=None
            if found["pose_x_px"] is None
            else Pose(**{name: found[f"pose_{name}"] for name in ("x_px", "y_px", "angle_deg", "scale")}),
            source=found["source"],
            late=_late(found),
            image=found["image_path"],
            brightness=found["brightness"],
            sharpness=found["sharpness"],
            told=_told(found),
        )
    except (ValueError, TypeError) as error:
        raise StorageError(f"record {found['seq']} cannot be read: {error}") from error


def _verdict(found: dict[str, Any]) -> Verdict:
    return Verdict(
        seq=found["seq"],
        station=found["station"],
        part_id=found["part_id"],
        outcome=Outcome(found["outcome"]),
        reason=Reason(found["reason"]),
        detail=found["detail"],
        action=Action(found["action"]),
        part_score=found["part_score"],
        region_scores=scores_from_json(found["region_scores"]),
        thresholds=Thresholds(
            part=_number(found["part_threshold"]), regions=scores_from_json(found["region_thresholds"])
        ),
        bundle_hash=found["bundle_hash"],
        trigger_wall_ns=found["trigger_wall_ns"],
        trigger_ns=found["trigger_ns"],
        captured_ns=found["captured_ns"],
        located_ns=found["located_ns"],
        scored_ns=found["scored_ns"],
        verdict_ns=found["verdict_ns"],
        deadline_ns=found["deadline_ns"],
        label=found["label"],
        encoder=found["encoder"],
        reject=None if found["reject"] is None else _reject_from_json(found["reject"]),
        challenge=found["challenge"] or "",
        sent_id=found["sent_id"] or "",
    )


def _late(found: dict[str, Any]) -> LateScores | None:
    if found["late_scored_ns"] is None:
        return None
    return LateScores(
        seq=found["seq"],
        part_id=found["part_id"],
        part_score=_number(found["late_part_score"]),
        region_scores=scores_from_json(found["late_region_scores"]),
        scored_ns=found["late_scored_ns"],
    )


def _told(found: dict[str, Any]) -> ToldReject | None:
    if found["told_ns"] is None:
        return None
    reject = _reject_from_json(found["told_reject"])
    return ToldReject(seq=found["seq"], part_id=found["part_id"], reject=reject, told_ns=found["told_ns"])


def scores_to_json(scores: tuple[tuple[str, float], ...]) -> str:
    """[[name, number or null], ...]"""
    return json.dumps([[name, score if math.isfinite(score) else None] for name, score in scores])


def scores_from_json(text: str) -> tuple[tuple[str, float], ...]:
    """What `scores_to_json` wrote. Raises ValueError or TypeError."""
    return tuple((str(name), _number(score)) for name, score in json.loads(text))


def _reject_to_json(reject: Reject) -> str:
    return json.dumps({name: value for name, value in asdict(reject).items() if value is not None}, sort_keys=True)


def _reject_from_json(text: str) -> Reject:
    values = json.loads(text)
    return Reject(**{**values, "command": Command(values["command"])})


def _stored(value: float | None) -> float | None:
    """A number for a REAL column: SQLite keeps what is not a number as NULL; infinity goes the same way."""
    return float(value) if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
