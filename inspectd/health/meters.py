"""Counters, latency histograms and beats, written by the stages, read by health; safe across threads."""

from __future__ import annotations

import time
from enum import StrEnum
from threading import Lock

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inspectd.messages import Outcome, Reason, Verdict

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
REMEMBERED_LATENCIES = 4096


class Stage(StrEnum):
    """A loop that beats."""

    ACQUIRE = "acquire"
    INSPECT = "inspect"
    GATE = "gate"
    RECORD = "record"
    IMAGES = "images"
    QUERY = "query"


class Step(StrEnum):
    """A piece of the way from trigger to verdict."""

    HAND_OVER = "hand_over"
    LOCATE = "locate"
    ENGINE = "engine"
    GATE = "gate"
    PUBLISH = "publish"
    COMMIT = "commit"


class Count(StrEnum):
    """What else is counted."""

    TRIGGERS = "triggers"
    TRIGGERS_REFUSED = "triggers_refused"
    OVERLOAD = "overload"
    ENGINE_FAULTS = "engine_faults"
    CAMERA_FAULTS = "camera_faults"
    STAGE_ERRORS = "stage_errors"
    REFUSED = "answers_refused"
    LATE_SCORES = "late_scores"
    ROWS = "rows"
    ROWS_LOST = "rows_lost"
    STORAGE_FAULTS = "storage_faults"
    IMAGES = "images"
    IMAGES_DROPPED = "images_dropped"
    QUERIES_REFUSED = "queries_refused"


class Meters:
    """All meters of one pipeline, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        steps = Histogram(
            "inspectd_step_seconds", "time of one step", ["step"], buckets=BUCKETS_S, registry=self.registry
        )
        self._steps = {step: steps.labels(step.value) for step in Step}
        self._latency = Histogram(
            "inspectd_verdict_seconds", "trigger to verdict", buckets=BUCKETS_S, registry=self.registry
        )
        verdicts = Counter("inspectd_verdicts", "verdicts", ["outcome", "reason"], registry=self.registry)
        self._verdicts = {pair: verdicts.labels(*pair) for pair in _verdict_labels()}
        events = Counter("inspectd_events", "events since the start", ["event"], registry=self.registry)
        self._events = {count: events.labels(count.value) for count in Count}
        depths = Gauge("inspectd_waiting", "parts that wait", ["queue"], registry=self.registry)
        self._pending_gauge, self._inspect_gauge = depths.labels("gate"), depths.labels("inspect")
        self._rows_gauge = depths.labels("rows")
        self._lock = Lock()
        self._counts = dict.fromkeys(Count, 0)
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._beats_ns: dict[Stage, int] = {}
        self._latencies_ms = np.zeros(REMEMBERED_LATENCIES, np.float32)
        self._verdict_count = 0
        self.last_seq: int | None = None
        self.engine_faults_in_a_row = 0
        self._storage_faults: dict[Stage, str] = {}

    def observe(self, step: Step, duration_ns: int) -> None:
        """Note how long a step took."""
        self._steps[step].observe(duration_ns / 1e9)

    def count(self, what: Count, more: int = 1) -> None:
        """Count an event."""
        if more:
            with self._lock:
                self._counts[what] += more
            self._events[what].inc(more)

    def set_count(self, what: Count, total: int) -> None:
        """Take over a total that one stage keeps itself, and that only rises."""
        self.count(what, total - self._counts[what])

    def verdict(self, verdict: Verdict) -> None:
        """Note a verdict and its latency. Called by the gate's thread only."""
        latency_ms = (verdict.verdict_ns - verdict.trigger_ns) / 1e6
        self._latency.observe(latency_ms / 1e3)
        self._verdicts[(verdict.outcome.value, verdict.reason.value)].inc()
        with self._lock:
            self._outcomes[verdict.outcome] += 1
            self._latencies_ms[self._verdict_count % REMEMBERED_LATENCIES] = latency_ms
            self._verdict_count += 1
            self.last_seq = verdict.seq

    def set_pending(self, parts: int) -> None:
        """Note how many triggers wait for their verdict."""
        self._pending_gauge.set(parts)

    def set_waiting(self, parts: int) -> None:
        """Note how many frames wait for the engine."""
        self._inspect_gauge.set(parts)

    def set_unwritten(self, rows: int) -> None:
        """Note how many rows wait for the disk."""
        self._rows_gauge.set(rows)

    def set_storage_fault(self, stage: Stage, fault: str) -> None:
        """Note what the disk refuses to a stage; an empty text where it works again."""
        with self._lock:
            self._storage_faults[stage] = fault

    def storage_faults(self) -> list[str]:
        """What the disk refuses now, one line each."""
        with self._lock:
            return [fault for fault in self._storage_faults.values() if fault]

    def beat(self, stage: Stage) -> None:
        """Note that a stage's loop has come round."""
        self._beats_ns[stage] = time.monotonic_ns()

    def beat_age_s(self, stage: Stage) -> float:
        """Seconds since the stage's loop last came round; infinite before the first time."""
        beat_ns = self._beats_ns.get(stage)
        return float("inf") if beat_ns is None else (time.monotonic_ns() - beat_ns) / 1e9

    def counts(self) -> dict[str, int]:
        """Every count by name."""
        with self._lock:
            return {count.value: total for count, total in self._counts.items()}

    def outcomes(self) -> dict[str, int]:
        """Verdicts by outcome."""
        with self._lock:
            return {outcome.value: total for outcome, total in self._outcomes.items()}

    def latencies_ms(self) -> dict[str, float]:
        """p50, p99 and max of trigger to verdict over the last 4096 parts; empty before the first one."""
        with self._lock:
            recent = self._latencies_ms[: min(self._verdict_count, REMEMBERED_LATENCIES)].copy()
        if not recent.size:
            return {}
        p50, p99 = np.percentile(recent, (50, 99))
        return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(recent.max()), 3)}

    def prometheus(self) -> bytes:
        """All meters in Prometheus' text format."""
        return generate_latest(self.registry)


def _verdict_labels() -> list[tuple[str, str]]:
    """(outcome, reason) pairs: INVALID takes any reason but the first two."""
    good_and_bad = [(Outcome.PASS, Reason.WITHIN_LIMITS), (Outcome.REJECT, Reason.OVER_THRESHOLD)]
    others = [
        (Outcome.INVALID, reason) for reason in Reason if reason not in (Reason.WITHIN_LIMITS, Reason.OVER_THRESHOLD)
    ]
    return [(outcome.value, reason.value) for outcome, reason in (*good_and_bad, *others)]
