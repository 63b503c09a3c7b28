"""What is published to those outside: results, rejects, health. JSON, each with a schema beside it.

Every message says {"schema": name, "version": 1}; the schemas are inspectd/schemas/<name>.json. Numbers that are not
finite travel as null. Times are UTC; durations come from the monotonic clock and are null where a step did not happen.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

from inspectd.messages import Reject, Verdict
from inspectd.wire.errors import WireError

VERSION = 1
MAX_MESSAGE_BYTES = 1 << 22
SILENT_S = 3.0  # no heartbeat for so long: nobody inspects; whoever was connected before a kill is again by then
SCHEMAS = ("result", "reject", "missed", "health", "question", "answer")
Json = dict[str, Any]


def schema(name: str) -> Json:
    """The published JSON Schema of a message: one of SCHEMAS."""
    text = resources.files("inspectd.schemas").joinpath(f"{name}.json").read_text(encoding="utf-8")
    found: Json = json.loads(text)
    return found


def result_topic(station: str) -> bytes:
    """Topic of the results."""
    return f"result.{station}".encode()


def reject_topic(station: str) -> bytes:
    """Topic of the parts that the line must not accept."""
    return f"reject.{station}".encode()


def missed_topic(station: str) -> bytes:
    """Topic of the parts that should have been taken off, and could not be reached in time."""
    return f"missed.{station}".encode()


def health_topic(station: str) -> bytes:
    """Topic of the heartbeat, once a second."""
    return f"health.{station}".encode()


def result(verdict: Verdict, run: str) -> Json:
    """The message on result.<station>, and the same again from the records."""
    after_trigger_ns = {
        "captured": verdict.captured_ns - verdict.trigger_ns if verdict.captured_ns else None,
        "scored": verdict.scored_ns - verdict.trigger_ns if verdict.scored_ns else None,
        "decided": verdict.verdict_ns - verdict.trigger_ns,
        "due": verdict.deadline_ns - verdict.trigger_ns,
    }
    return {
        **head("inspectd.result", run),
        "station": verdict.station,
        "seq": verdict.seq,
        "part_id": verdict.part_id,
        "sent_id": verdict.sent_id or None,
        "verdict": verdict.outcome.value,
        "reason": verdict.reason.value,
        "detail": verdict.detail,
        "action": verdict.action.value,
        "part_score": _number(verdict.part_score),
        "region_scores": {name: _number(score) for name, score in verdict.region_scores},
        "thresholds": {
            "part": _number(verdict.thresholds.part),
            "regions": {name: _number(limit) for name, limit in verdict.thresholds.regions},
        },
        "bundle_hash": verdict.bundle_hash,
        "triggered_at": _time(verdict.trigger_wall_ns, 0),
        "captured_at": _time(verdict.trigger_wall_ns, after_trigger_ns["captured"]),
        "scored_at": _time(verdict.trigger_wall_ns, after_trigger_ns["scored"]),
        "decided_at": _time(verdict.trigger_wall_ns, after_trigger_ns["decided"]),
        "due_at": _time(verdict.trigger_wall_ns, after_trigger_ns["due"]),
        "capture_ms": _ms(verdict.trigger_ns, verdict.captured_ns),
        "locate_ms": _ms(verdict.captured_ns, verdict.located_ns),
        "engine_ms": _ms(verdict.located_ns, verdict.scored_ns),
        "latency_ms": _ms(verdict.trigger_ns, verdict.verdict_ns),
        "label": verdict.label,
        "encoder": verdict.encoder,
        "reject": None if verdict.reject is None else _reject_of(verdict, verdict.reject),
        "challenge": verdict.challenge,
        "in_time": _in_time(verdict),
    }


def reject(verdict: Verdict, now_ns: int, run: str) -> Json:
    """The message on reject.<station>: short, for whoever moves the gate. now_ns: monotonic clock as it leaves."""
    window = None
    if (of := verdict.reject) is not None:
        window = {
            **_window(verdict, of),
            "opens_in_ms": None if of.opens_ns is None else round((of.opens_ns - now_ns) / 1e6, 3),
            "closes_in_ms": None if of.closes_ns is None else round((of.closes_ns - now_ns) / 1e6, 3),
        }
    return {
        **head("inspectd.reject", run),
        "station": verdict.station,
        "seq": verdict.seq,
        "part_id": verdict.part_id,
        "action": verdict.action.value,
        "verdict": verdict.outcome.value,
        "reason": verdict.reason.value,
        "triggered_at": _time(verdict.trigger_wall_ns, 0),
        "due_at": _time(verdict.trigger_wall_ns, verdict.deadline_ns - verdict.trigger_ns),
        "window": window,
        "in_time": _in_time(verdict),
    }


def missed(verdict: Verdict, run: str) -> Json:
    """The message on missed.<station>: a part that goes on down the line, and why. Nobody may act on it as a reject."""
    return {
        **head("inspectd.missed", run),
        "station": verdict.station,
        "seq": verdict.seq,
        "part_id": verdict.part_id,
        "verdict": verdict.outcome.value,
        "reason": verdict.reason.value,
        "triggered_at": _time(verdict.trigger_wall_ns, 0),
        "detail": "" if verdict.reject is None else verdict.reject.detail,
    }


def head(name: str, run: str) -> Json:
    """How each message begins: the name of its schema, the version, and the run that its numbers belong to."""
    return {"schema": name, "version": VERSION, "run": run}


def to_bytes(message: Mapping[str, Any]) -> bytes:
    """Compact JSON. Raises ValueError for a number that is not finite: such are null by then."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


def from_bytes(data: bytes, schema_name: str) -> Json:
    """Read a message of a known schema and version, as a client does. Raises WireError."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are read")
    message = read_object(data)
    if message.get("schema") != schema_name or message.get("version") != VERSION:
        found = f"{message.get('schema')!r} version {message.get('version')!r}"
        raise WireError(f"expected {schema_name} version {VERSION}, got {found}")
    return message


def read_object(data: bytes) -> Json:
    """Read one JSON object, as RFC 8259 has it: no NaN, no Infinity. Raises WireError."""
    try:
        message = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError("not JSON") from error
    if not isinstance(message, dict):
        raise WireError("not a JSON object")
    return message


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _in_time(verdict: Verdict) -> bool:
    """Whether it left by its deadline: what was held up on its way out is stamped again (docs/gate.md)."""
    return verdict.verdict_ns < verdict.deadline_ns


def _reject_of(verdict: Verdict, reject: Reject) -> Json:
    return {"command": reject.command.value, **_window(verdict, reject), "detail": reject.detail}


def _window(verdict: Verdict, reject: Reject) -> Json:
    """When the actuator must act, as far as it is known."""
    opens_ns = None if reject.opens_ns is None else reject.opens_ns - verdict.trigger_ns
    closes_ns = None if reject.closes_ns is None else reject.closes_ns - verdict.trigger_ns
    return {
        "opens_at": _time(verdict.trigger_wall_ns, opens_ns),
        "closes_at": _time(verdict.trigger_wall_ns, closes_ns),
        "from_count": reject.from_count,
        "to_count": reject.to_count,
        "neighbour": reject.neighbour or None,
    }


def _ms(start_ns: int, end_ns: int) -> float | None:
    return round((end_ns - start_ns) / 1e6, 3) if start_ns and end_ns else None


def _time(trigger_wall_ns: int, after_ns: int | None) -> str | None:
    """ISO 8601 in UTC with microseconds; the wall clock is read once per part, at the trigger."""
    if after_ns is None:
        return None
    seconds, rest_ns = divmod(trigger_wall_ns + after_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"
