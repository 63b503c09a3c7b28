"""Counters, latency histograms and beats, written by the stages, read by health; safe across threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from enum import StrEnum
from threading import Lock

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest

from inspectd.health.series import SINCE_TRIGGER, Series
from inspectd.messages import Outcome, Reason, Verdict

REMEMBERED_LATENCIES = 4096
MISSES_COUNT_FOR_NS = 2_000_000_000


class Stage(StrEnum):
    """A loop that beats."""

    TRIGGER = "trigger"
    ACQUIRE = "acquire"
    INSPECT = "inspect"
    GATE = "gate"
    RECORD = "record"
    IMAGES = "images"
    QUERY = "query"


class Step(StrEnum):
    """A piece of the way from trigger to verdict."""

    CAPTURE = "capture"
    HAND_OVER = "hand_over"
    LOCATE = "locate"
    ENGINE = "engine"
    GATE = "gate"
    PUBLISH = "publish"
    COMMIT = "commit"


class Count(StrEnum):
    """What else is counted: each is a counter of its own, inspectd_<name>_total; its text is in `_MEANINGS`."""

    TRIGGERS = "triggers"
    TRIGGERS_REFUSED = "triggers_refused"
    TRIGGERS_PUT_RIGHT = "triggers_put_right"
    TRIGGERS_OVERDUE = "triggers_overdue"
    TIMER_SKIPPED = "timer_skipped"
    DEADLINES_MISSED = "deadlines_missed"
    OVERLOAD = "overload"
    SHED = "shed"
    ENGINE_FAULTS = "engine_faults"
    ENGINES_ABANDONED = "engines_abandoned"
    ENGINE_RESTARTS = "engine_restarts"
    BUNDLES_EXCHANGED = "bundles_exchanged"
    BUNDLES_REFUSED = "bundles_refused"
    CAMERA_FAULTS = "camera_faults"
    CAMERA_REOPENED = "camera_reopened"
    STALE_IMAGES = "stale_images"
    STAGE_ERRORS = "stage_errors"
    REFUSED = "answers_refused"
    LATE_SCORES = "late_scores"
    ROWS = "rows"
    ROWS_LOST = "rows_lost"
    JOURNAL_SKIPPED = "journal_skipped"
    STORAGE_FAULTS = "storage_faults"
    IMAGES = "images"
    IMAGES_DROPPED = "images_dropped"
    QUERIES_REFUSED = "queries_refused"
    CLIENTS_REFUSED = "clients_refused"
    CONNECTIONS_CLOSED = "connections_closed"
    REJECTS_MISSED = "rejects_missed"
    REJECT_OVERLAPS = "reject_overlaps"


_MEANINGS = {
    Count.TRIGGERS: "parts that asked to be inspected",
    Count.TRIGGERS_REFUSED: "trigger messages that were not understood",
    Count.TRIGGERS_PUT_RIGHT: "triggers with a field that had to be put right or left out",
    Count.TRIGGERS_OVERDUE: "triggers whose deadline had passed when they were read",
    Count.TIMER_SKIPPED: "triggers of the timer left out, because a pause had let their deadline pass",
    Count.DEADLINES_MISSED: "verdicts that left after their deadline, of parts that came in time; must be zero",
    Count.SHED: "parts that were answered without having been asked for, because too many came at once",
    Count.OVERLOAD: "parts that could not be inspected in time, or found a full queue",
    Count.ENGINE_FAULTS: "inferences that failed, hung, or gave no score",
    Count.ENGINES_ABANDONED: "engines given up because they hung, or failed too often in a row",
    Count.ENGINE_RESTARTS: "engines loaded in place of an abandoned one",
    Count.BUNDLES_EXCHANGED: "bundles that took over while running",
    Count.BUNDLES_REFUSED: "bundles asked for while running that could not be used",
    Count.CAMERA_FAULTS: "images that the camera failed to give",
    Count.CAMERA_REOPENED: "times that a lost camera was opened again",
    Count.STALE_IMAGES: "images thrown away as older than the trigger; a camera that runs freely gives some",
    Count.STAGE_ERRORS: "faults inside a stage, or messages lost between two; must be zero",
    Count.REFUSED: "answers that the gate refused: the second one, another part's, or a fault after the verdict",
    Count.LATE_SCORES: "scores that came after their part's verdict",
    Count.ROWS: "records committed",
    Count.ROWS_LOST: "records given up; must be zero",
    Count.JOURNAL_SKIPPED: "verdicts announced without a row in the journal; must be zero",
    Count.STORAGE_FAULTS: "attempts to write that the disk refused",
    Count.IMAGES: "images stored",
    Count.IMAGES_DROPPED: "images dropped for a full queue or disk",
    Count.QUERIES_REFUSED: "questions refused",
    Count.REJECTS_MISSED: "parts to be rejected that no command could reach in time; must be zero",
    Count.REJECT_OVERLAPS: "good parts in the window of a rejected one; must be zero",
    Count.CLIENTS_REFUSED: "clients turned away: without a key, with an unknown one, or with one for another daemon",
    Count.CONNECTIONS_CLOSED: "connections closed because their endpoint had as many as it may have",
}


class Meters:
    """All meters of one pipeline, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series = Series(
            self.registry,
            steps=Step,
            counts={count.value: _MEANINGS.get(count, count.value) for count in Count},
            verdicts=_verdict_labels(),
        )
        self._lock = Lock()
        self._counts = dict.fromkeys(Count, 0)
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._beats_ns: dict[Stage, int] = {}
        self._latencies_ms = np.zeros(REMEMBERED_LATENCIES, np.float32)
        self._verdict_count = 0
        self.pending = 0
        self.earliest_deadline_ns: int | None = None
        self.engine_faults_in_a_row = 0
        self.camera_fault = ""
        self.rows_refused = False
        self._misses_in_a_row = 0
        self._last_miss_ns = 0
        self._storage_faults: dict[Stage, str] = {}

    def observe(self, step: Step, duration_ns: int) -> None:
        """Note how long a step took."""
        self._series.steps[step].observe(duration_ns / 1e9)

    def count(self, what: Count, more: int = 1) -> None:
        """Count an event."""
        if more:
            with self._lock:
                self._counts[what] += more
            self._series.counts[what].inc(more)

    def set_count(self, what: Count, total: int) -> None:
        """Take over a total that one stage keeps itself, and that only rises."""
        self.count(what, total - self._counts[what])

    def verdict(self, verdict: Verdict, told_ns: int | None = None) -> None:
        """Note a verdict, and when it had been told (None: as it was made). Called by the gate's thread only."""
        told_ns = verdict.verdict_ns if told_ns is None else told_ns
        stamps = (verdict.captured_ns, verdict.located_ns, verdict.scored_ns, verdict.verdict_ns, told_ns)
        for point, at_ns in zip(SINCE_TRIGGER, stamps, strict=True):
            if at_ns:
                self._series.since[point].observe((at_ns - verdict.trigger_ns) / 1e9)
        if verdict.captured_ns:
            self.observe(Step.CAPTURE, verdict.captured_ns - verdict.trigger_ns)
        if verdict.part_score is not None and verdict.thresholds.part > 0:
            self._series.score_ratio.observe(verdict.part_score / verdict.thresholds.part)
        self._series.verdicts[(verdict.outcome.value, verdict.reason.value)].inc()
        latency_ms = (verdict.verdict_ns - verdict.trigger_ns) / 1e6
        with self._lock:
            self._outcomes[verdict.outcome] += 1
            self._latencies_ms[self._verdict_count % REMEMBERED_LATENCIES] = latency_ms
            self._verdict_count += 1
        if told_ns < verdict.deadline_ns:
            self._misses_in_a_row = 0
        elif not verdict.overdue:  # what was too late when it came is its sender's lateness, not ours
            self._misses_in_a_row += 1
            self._last_miss_ns = told_ns
            self.count(Count.DEADLINES_MISSED)

    @property
    def answered(self) -> int:
        """How many verdicts were given."""
        return self._verdict_count

    def set_pending(self, parts: int, earliest_deadline_ns: int | None = None) -> None:
        """Note how many triggers wait for their verdict, and the earliest of their deadlines (monotonic clock)."""
        self.pending, self.earliest_deadline_ns = parts, earliest_deadline_ns
        self._series.waiting.labels("gate").set(parts)

    def set_waiting(self, parts: int) -> None:
        """Note how many frames wait for the engine."""
        self._series.waiting.labels("inspect").set(parts)

    def set_unwritten(self, rows: int) -> None:
        """Note how many rows wait for the disk."""
        self._series.waiting.labels("rows").set(rows)

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

    def counts_of(self, what: Count) -> int:
        """One count."""
        return self._counts[what]

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

    def describe(self, *, version: str, station: str, bundle: str, engine: str) -> None:
        """Note what runs, in place of what was noted before."""
        self._series.build.clear()
        self._series.build.labels(version, station, bundle, engine).set(1)

    def set_process(self, granted: Mapping[str, bool]) -> None:
        """Note which wishes of the settings' section `process` are in force."""
        for setting, is_granted in granted.items():
            self._series.process.labels(setting).set(is_granted)

    def engine_restarted(self, down_s: float) -> None:
        """Note that there is an engine again, and how long there was none."""
        self.count(Count.ENGINE_RESTARTS)
        self._series.restart_s.observe(down_s)

    def set_state(self, state: str, states: Iterable[str]) -> None:
        """Note which of the possible states the daemon is in."""
        for name in states:
            self._series.state.labels(name).set(name == state)

    def overdue_s(self) -> float:
        """How long the earliest pending verdict has been due, in seconds; 0 where none is."""
        deadline_ns = self.earliest_deadline_ns
        return 0.0 if deadline_ns is None else max(0, time.monotonic_ns() - deadline_ns) / 1e9

    def misses(self) -> int:
        """How many verdicts in a row, up to the last one, left after their deadline; 0 once that is 2 s ago."""
        in_a_row, last_ns = self._misses_in_a_row, self._last_miss_ns
        return in_a_row if time.monotonic_ns() - last_ns < MISSES_COUNT_FOR_NS else 0

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
