"""Stations, messages and values for tests: small, on free ports, below a temporary folder. Not a test module."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np

from inspectd.config import Station
from inspectd.messages import Action, Fault, Frame, Outcome, Reason, Scores, Thresholds, Trigger, Verdict

REGIONS = ("electrode-left", "body", "electrode-right")
LIMITS = Thresholds(part=0.5, regions=tuple((name, 0.5) for name in REGIONS))
BUNDLE_HASH = "ab" * 32
RUN = "c5" * 16
MS = 1_000_000
_given: set[int] = set()


def free_port() -> int:
    """A TCP port that was free a moment ago, and that no earlier call gave: a station's ports must differ."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Raw settings like those of smdc, with a small pool of parts, changed section by section."""
    raw: dict[str, Any] = {
        "station": "test",
        "line": {"deadline_ms": 2000},
        "trigger": {"source": "timer", "period_ms": 5},
        "camera": {"kind": "simulated", "seed": 1, "pool": 4},
        "regions": [
            {
                "name": "electrode-left",
                "top_px": 39,
                "left_px": 9,
                "height_px": 50,
                "width_px": 25,
                "patches": [[4, 1]],
            },
            {"name": "body", "top_px": 39, "left_px": 34, "height_px": 50, "width_px": 60, "patches": [[4, 4]]},
            {
                "name": "electrode-right",
                "top_px": 39,
                "left_px": 94,
                "height_px": 50,
                "width_px": 25,
                "patches": [[4, 1]],
            },
        ],
        "outputs": {
            "results": f"tcp://127.0.0.1:{free_port()}",
            "queries": f"tcp://127.0.0.1:{free_port()}",
        },
        "records": {"folder": str(folder / "records")},
        "bundles": str(folder / "bundles"),
    }
    for section, values in changes.items():
        merge = isinstance(values, dict) and section != "camera"
        raw[section] = {**raw.get(section, {}), **values} if merge else values
    return raw


def station(folder: Path, **changes: Any) -> Station:
    """The station of `settings`."""
    return Station.model_validate(settings(folder, **changes))


def trigger(seq: int = 1, *, at_ms: float = 0, deadline_ms: float = 50) -> Trigger:
    """A trigger at a time of its own clock."""
    return Trigger(
        station="test",
        seq=seq,
        part_id=f"p{seq}",
        trigger_ns=round(at_ms * MS),
        trigger_wall_ns=1_790_000_000_000_000_000 + round(at_ms * MS),
        deadline_ns=round((at_ms + deadline_ms) * MS),
    )


def scores(seq: int = 1, part_score: float = 0.1, *, region_score: float = 0.1, part_id: str | None = None) -> Scores:
    """Scores of one part."""
    return Scores(
        seq=seq,
        part_id=part_id or f"p{seq}",
        part_score=part_score,
        region_scores=tuple((name, region_score) for name in REGIONS),
        thresholds=LIMITS,
        bundle_hash=BUNDLE_HASH,
        captured_ns=1 * MS,
        located_ns=2 * MS,
        scored_ns=5 * MS,
    )


def fault(seq: int = 1, reason: Reason = Reason.NO_PART) -> Fault:
    """A fault of one part."""
    return Fault(seq=seq, part_id=f"p{seq}", reason=reason, detail="no bright part", captured_ns=1 * MS)


def frame(seq: int = 1, *, deadline_ms: float = 50) -> Frame:
    """A small grey frame."""
    return Frame(
        seq=seq,
        part_id=f"p{seq}",
        trigger_ns=0,
        captured_ns=1,
        deadline_ns=round(deadline_ms * MS),
        image=np.full((20, 30, 3), 100, np.uint8),
    )


def verdict(seq: int = 1, outcome: Outcome = Outcome.PASS, *, wall_ns: int = 1_790_000_000_000_000_000) -> Verdict:
    """A verdict as the gate gives it."""
    reason = {Outcome.PASS: Reason.WITHIN_LIMITS, Outcome.REJECT: Reason.OVER_THRESHOLD}.get(outcome, Reason.LATE)
    judged = outcome is not Outcome.INVALID
    return Verdict(
        station="test",
        seq=seq,
        part_id=f"p{seq}",
        outcome=outcome,
        reason=reason,
        detail="for a test",
        action=Action.ACCEPT if outcome is Outcome.PASS else Action.REJECT,
        part_score=0.25 if judged else None,
        region_scores=tuple((name, 0.25) for name in REGIONS) if judged else (),
        thresholds=LIMITS,
        bundle_hash=BUNDLE_HASH,
        trigger_ns=10 * MS,
        trigger_wall_ns=wall_ns,
        captured_ns=11 * MS if judged else 0,
        located_ns=12 * MS if judged else 0,
        scored_ns=15 * MS if judged else 0,
        verdict_ns=16 * MS,
        deadline_ns=60 * MS,
        label="good",
    )
