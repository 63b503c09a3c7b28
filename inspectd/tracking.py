"""Verdict -> when and how the line is told to take the part off: the rule of the gate's reject signals.

`Tracker` is the rule, without clock, thread or socket; `ByDelay` and `inspectd.encoder.ByEncoder` say when a part
passes its actuator.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from inspectd.messages import Action, Command, Position, Reject, Trigger, Verdict

NEIGHBOURS = 64
MOST_HELD = 10_000
KILLED = "the daemon was killed before the command left"
STOPPED = "the daemon stopped before the window was near"
TOO_MANY = f"more than {MOST_HELD} commands are held"
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a part is before its actuator, on the monotonic clock and in raw encoder counts; None where not known.

    reached: its counts say that the part is there. gone: why it cannot be reached any more, or is not known to be
    anywhere; empty where it can be reached.
    """

    opens_ns: int | None = None
    closes_ns: int | None = None
    from_count: int | None = None
    to_count: int | None = None
    reached: bool = False
    gone: str = ""


class Course(Protocol):
    """How parts travel from the trigger to the actuator."""

    def on_position(self, position: Position) -> None:
        """Take in where the belt is; positions of one encoder, in the order in which they were read."""

    def window(self, part: Trigger | Verdict, now_ns: int) -> Window:
        """When the part is before its actuator, as well as can be told now."""

    def together(self, part: Trigger | Verdict, other: Trigger | Verdict) -> bool:
        """True where the windows of two parts overlap."""


class ByDelay:
    """Each part is before its actuator from `delay_ns` after its trigger on, for `window_ns`."""

    def __init__(self, *, delay_ns: int, window_ns: int) -> None:
        self._delay_ns, self._window_ns = delay_ns, window_ns

    def on_position(self, position: Position) -> None:
        """Positions say nothing about time."""

    def window(self, part: Trigger | Verdict, now_ns: int) -> Window:
        """A fixed time after the trigger."""
        opens_ns = part.trigger_ns + self._delay_ns
        return Window(opens_ns=opens_ns, closes_ns=opens_ns + self._window_ns)

    def together(self, part: Trigger | Verdict, other: Trigger | Verdict) -> bool:
        """All windows have the same width: they overlap where the triggers are closer than that."""
        return abs(part.trigger_ns - other.trigger_ns) < self._window_ns


@dataclass(slots=True)
class _Passing:
    """A part on its way; `action` is None until its verdict."""

    part: Trigger
    action: Action | None = None


class Tracker:
    """Triggers and verdicts in, reject commands out: each part to be rejected is told exactly once, or missed, once.

    course: None where rejects are not tracked: then verdicts pass through as they are, and are told at once.
    lead_ns: how long a command takes to the actuator, its reaction included. hold: keep each command until its window
    opens less the lead, instead of telling it with the verdict: whoever gets it acts at once, so it never leaves early.
    left_over: verdicts whose reject an earlier run held and never told; reported as missed once `settled` says that
    somebody can hear it. Where that comes too late for this run, they are left to the next.
    """

    def __init__(
        self,
        course: Course | None,
        *,
        lead_ns: int = 0,
        hold: bool = False,
        left_over: Sequence[Verdict] = (),
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        self._course = course
        self._lead_ns = lead_ns
        self._hold = hold
        self._passing: OrderedDict[int, _Passing] = OrderedDict()
        self._held: list[tuple[int, int, Verdict]] = []  # by trigger: the first is the nearest to the actuator
        self._left_over, self._settled = tuple(left_over), settled
        self.missed = 0
        self.overlaps = 0  # pairs of an accepted and a rejected part in one window

    @property
    def held(self) -> int:
        """How many commands wait for their time."""
        return len(self._held)

    def on_position(self, position: Position) -> None:
        """Take in where the belt is."""
        if self._course is not None:
            self._course.on_position(position)

    def on_trigger(self, trigger: Trigger) -> None:
        """Note a part that is on its way."""
        if self._course is None:
            return
        if trigger.encoder is not None:
            self._course.on_position(Position(count=trigger.encoder, at_ns=trigger.trigger_ns))
        self._passing[trigger.seq] = _Passing(trigger)
        if len(self._passing) > NEIGHBOURS:
            self._passing.popitem(last=False)

    def on_verdict(self, verdict: Verdict, now_ns: int) -> Verdict:
        """The verdict with its reject, where it has one: to be told now (SCHEDULED, MISSED), or kept here (HELD)."""
        if self._course is None:
            return verdict
        if verdict.action is not Action.REJECT:
            self._meet(self._course, verdict)
            return verdict
        reject = self._reject(self._course, verdict, now_ns)
        if reject.command is Command.HELD and len(self._held) >= MOST_HELD:
            reject = replace(reject, command=Command.MISSED, detail=TOO_MANY)
        if reject.command is Command.MISSED:
            self.missed += 1
        else:
            reject = replace(reject, neighbour=self._meet(self._course, verdict))
        verdict = replace(verdict, reject=reject)
        if reject.command is Command.HELD:
            heapq.heappush(self._held, (verdict.trigger_ns, verdict.seq, verdict))
        return verdict

    def held_up(self, verdict: Verdict, now_ns: int) -> Verdict:
        """A verdict of `on_verdict` that is told later than it was meant to: MISSED where that is too late by now."""
        reject = verdict.reject
        if self._course is None or reject is None or reject.command is not Command.SCHEDULED:
            return verdict
        again = self._reject(self._course, verdict, now_ns)
        if again.command is not Command.MISSED:
            return verdict
        self.missed += 1
        return replace(verdict, reject=replace(again, neighbour=reject.neighbour))

    def next_due_ns(self, now_ns: int) -> int | None:
        """When the next held command must leave; None where none is held, or only a position can tell."""
        if self._course is None or not self._held:
            return None
        opens_ns = self._course.window(self._held[0][2], now_ns).opens_ns
        return None if opens_ns is None else opens_ns - self._lead_ns

    def due(self, now_ns: int) -> list[Verdict]:
        """The held commands whose time has come, with their reject as it is to be told: SCHEDULED or MISSED."""
        return list(self._release(now_ns, everything=False))

    def close(self, now_ns: int) -> list[Verdict]:
        """Every held command: MISSED where its time has not come."""
        return list(self._release(now_ns, everything=True))

    def _release(self, now_ns: int, *, everything: bool) -> Iterator[Verdict]:
        if self._left_over and self._settled():
            left_over, self._left_over = self._left_over, ()
            self.missed += len(left_over)
            for verdict in left_over:
                reject = verdict.reject or Reject(command=Command.MISSED)
                yield replace(verdict, reject=replace(reject, command=Command.MISSED, detail=KILLED))
        while self._course is not None and self._held:
            verdict = self._held[0][2]
            reject = self._reject(self._course, verdict, now_ns)
            if reject.command is Command.HELD:
                if not everything:
                    return
                reject = replace(reject, command=Command.MISSED, detail=STOPPED)
            heapq.heappop(self._held)
            self.missed += reject.command is Command.MISSED
            neighbour = "" if verdict.reject is None else verdict.reject.neighbour
            yield replace(verdict, reject=replace(reject, neighbour=neighbour))

    def _reject(self, course: Course, verdict: Verdict, now_ns: int) -> Reject:
        """What can be told of the part now."""
        window = course.window(verdict, now_ns)
        command, detail = Command.SCHEDULED, ""
        if window.gone:
            command, detail = Command.MISSED, window.gone
        elif window.closes_ns is not None and now_ns + self._lead_ns > window.closes_ns:
            late_ms = (now_ns + self._lead_ns - window.closes_ns) / NS_PER_MS
            command, detail = Command.MISSED, f"the command would act {late_ms:.1f} ms after its window"
        elif self._hold and not window.reached:
            near = window.opens_ns is not None and now_ns >= window.opens_ns - self._lead_ns
            command = Command.SCHEDULED if near else Command.HELD
        return Reject(
            command=command,
            opens_ns=window.opens_ns,
            closes_ns=window.closes_ns,
            from_count=window.from_count,
            to_count=window.to_count,
            detail=detail,
        )

    def _meet(self, course: Course, verdict: Verdict) -> str:
        """Count the neighbours that share the part's window and its fate not; the name of one that may be good."""
        own = self._passing.get(verdict.seq)
        if own is not None:
            own.action = verdict.action
        endangered = ""
        for seq, other in self._passing.items():
            if seq == verdict.seq or other.action not in (None, Action.ACCEPT, Action.REJECT):
                continue
            if other.action is verdict.action or not course.together(verdict, other.part):
                continue
            if other.action is not None and {verdict.action, other.action} == {Action.ACCEPT, Action.REJECT}:
                self.overlaps += 1
            endangered = endangered or other.part.part_id
        return endangered
