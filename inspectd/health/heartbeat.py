"""Is the pipeline advancing? Judged from the stages' beats and counts; the health message says so once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from inspectd.health.meters import Count, Meters, Stage
from inspectd.wire.public import Json, head

PERIOD_S = 1.0
FAULTS_IN_A_ROW = 10
LOSS_WINDOW_S = 60.0
OVERDUE_S = 0.5
MISSES_IN_A_ROW = 10


_LOSSES = {
    (Count.TRIGGERS_REFUSED,): "{} trigger messages were not understood so far: those parts have no verdict",
    (Count.TRIGGERS_PUT_RIGHT,): "{} triggers had a field that was put right so far (docs/messages.md)",
    (Count.TRIGGERS_OVERDUE,): "{} triggers were too old for their deadline when they came so far: see their age_ms",
    (Count.TIMER_SKIPPED,): "{} triggers of the timer were left out after pauses of the machine so far",
    (Count.DEADLINES_MISSED,): "{} verdicts left after their deadline so far",
    (Count.ROWS_LOST, Count.IMAGES_DROPPED): "{} records and {} images lost so far",
    (Count.REJECTS_MISSED,): "{} parts to be rejected could not be reached in time so far",
    (
        Count.CONNECTIONS_CLOSED,
    ): "{} connections were closed so far, one too many for their endpoint: a client leaks them",
    (Count.REJECT_OVERLAPS,): "{} good parts lay in the window of a rejected one so far",
}


class State(StrEnum):
    """How the daemon is. DEGRADED: verdicts are given, but something needs a person. STALLED: it does not advance."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    STALLED = "stalled"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Concern(Protocol):
    """Something beside the stages that may need a person; safe across threads."""

    def worries(self) -> list[str]:
        """One line for each thing that is not as it should be; verdicts hold all the same."""

    def report(self) -> Json:
        """Its part of the health message."""


class Heartbeat:
    """Reads the meters and says how the pipeline is; safe across threads.

    patience_s: how long each stage's loop may take at most. A stage on the verdict path that is silent for longer
    stalls the pipeline, and so do verdicts that do not leave in time; the other stages only degrade it.
    concerns: what else may degrade it, by the name of its part of the health message.
    newest_seq: the largest sequence number so far, of the source that gives them out: no stage that sees parts out of
    order, or none since the start, could say. run: the run that it belongs to, empty where nothing is numbered.
    """

    VITAL = (Stage.TRIGGER, Stage.ACQUIRE, Stage.INSPECT, Stage.GATE)

    def __init__(
        self,
        meters: Meters,
        *,
        station: str,
        bundle_hash: str,
        engine: str,
        patience_s: Mapping[Stage, float],
        concerns: Mapping[str, Concern] = MappingProxyType({}),
        newest_seq: Callable[[], int | None] = lambda: None,
        run: str = "",
    ) -> None:
        self._meters = meters
        self._newest_seq, self._run = newest_seq, run
        self._concerns = dict(concerns)
        self._station, self._bundle_hash, self._engine = station, bundle_hash, engine
        self._patience_s = dict(patience_s)
        self._begun_s = time.monotonic()
        self._phase = State.STARTING
        self._losses = dict.fromkeys(_LOSSES, (0, -LOSS_WINDOW_S))

    def set_phase(self, phase: State) -> None:
        """STARTING, RUNNING, STOPPING or STOPPED, as the life cycle goes on."""
        self._phase = phase

    def set_engine(self, bundle_hash: str, engine: str) -> None:
        """Another bundle judges from now on: its hash; runtime, version, precision and device."""
        self._bundle_hash, self._engine = bundle_hash, engine

    def advances(self) -> bool:
        """True while every stage between trigger and verdict comes round and verdicts leave: the watchdog's food."""
        return not self._stalled()

    def readiness(self) -> tuple[bool, str]:
        """Whether parts are judged now, and the state with what is not as it should be, in one line."""
        state, why = self.state()
        return state in (State.RUNNING, State.DEGRADED), "; ".join([state.value, *why])

    def state(self) -> tuple[State, list[str]]:
        """The state, and one line for each thing that is not as it should be."""
        if self._phase is not State.RUNNING:
            return self._phase, []
        stalled = self._stalled()
        others = [stage for stage in self._patience_s if stage not in self.VITAL]
        worries = [f"{stage.value} has not come round for too long" for stage in self._silent(others)]
        worries += self._meters.storage_faults()
        worries += [fault for fault in (self._meters.camera_fault,) if fault]
        if self._meters.engine_faults_in_a_row >= FAULTS_IN_A_ROW:
            worries.append(f"the engine failed {self._meters.engine_faults_in_a_row} times in a row")
        worries += self._lost()
        worries += [worry for concern in self._concerns.values() for worry in concern.worries()]
        if stalled:
            return State.STALLED, stalled + worries
        return (State.DEGRADED, worries) if worries else (State.RUNNING, [])

    def message(self) -> Json:
        """The content of health.<station>."""
        state, why = self.state()
        now_ns = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 1_000_000_000))
        return {
            **head("inspectd.health", self._run),
            "station": self._station,
            "state": state.value,
            "why": why,
            "at": f"{stamp}.{now_ns // 1000 % 1_000_000:06d}Z",
            "uptime_s": round(time.monotonic() - self._begun_s, 1),
            "bundle_hash": self._bundle_hash,
            "engine": self._engine,
            "last_seq": self._newest_seq(),
            "verdicts": self._meters.outcomes(),
            "latency_ms": self._meters.latencies_ms(),
            "counts": self._meters.counts(),
            **{name: concern.report() for name, concern in self._concerns.items()},
        }

    def beating(self, send: Callable[[Json], None]) -> Callable[[], None]:
        """A function that sends the message when a second has passed since it last did, for a loop's every turn."""
        next_s = 0.0

        def turn() -> None:
            nonlocal next_s
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + PERIOD_S
                send(self.message())

        return turn

    def _stalled(self) -> list[str]:
        """Why no verdict can be relied on, one line each."""
        why = [f"{stage.value} has not come round for too long" for stage in self._silent(self.VITAL)]
        if (overdue_s := self._meters.overdue_s()) > OVERDUE_S:
            why.append(f"a verdict is {overdue_s:.1f} s overdue")
        if (misses := self._meters.misses()) >= MISSES_IN_A_ROW:
            why.append(f"the last {misses} verdicts left after their deadline")
        return why

    def _silent(self, stages: tuple[Stage, ...] | list[Stage]) -> list[Stage]:
        return [stage for stage in stages if self._meters.beat_age_s(stage) > self._patience_s.get(stage, float("inf"))]

    def _lost(self) -> list[str]:
        """Which of `_LOSSES` rose within the last minute, with their totals."""
        counts, now_s = self._meters.counts(), time.monotonic()
        worries = []
        for what, text in _LOSSES.items():
            totals = [counts[each.value] for each in what]
            seen, since_s = self._losses[what]
            if sum(totals) > seen:
                since_s = now_s
                self._losses[what] = (sum(totals), since_s)
            if now_s - since_s < LOSS_WINDOW_S:
                worries.append(text.format(*totals))
        return worries
