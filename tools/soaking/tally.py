"""The accounts of a soak run: what was announced against what was recorded, part by part, in bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from inspectd.messages import Outcome, Verdict
from inspectd.records.numbers import Numbers
from soaking.latencies import StepLatencies

STEPS = (
    "trigger to image",
    "image to part located (queue, locate)",
    "engine",
    "scores to verdict (queue, gate)",
)
WHOLE = "**trigger to verdict**"
REMEMBERED = 100_000
"""Announced verdicts that wait for their record, to be compared with it; only a stalled disk makes so many wait."""
Announced = tuple[str, str]


@dataclass(slots=True)
class Life:
    """One daemon process. begun_ns: monotonic clock, which every process of a machine shares.

    first: its smallest recorded number. triggers: by its own last word, None where it could say none (killed).
    """

    begun_ns: int
    first: int | None = None
    triggers: int | None = None
    recorded: int = 0


@dataclass(slots=True)
class Tally:
    """Everything that is counted. Lost: `not_recorded` + `not_told` + `without_verdict`; each must be zero."""

    heard: Numbers = field(default_factory=Numbers)
    fetched: Numbers = field(default_factory=Numbers)
    recorded: Numbers = field(default_factory=Numbers)
    verdicts: Counter[Announced] = field(default_factory=Counter)
    lives: list[Life] = field(default_factory=list)
    latencies: StepLatencies = field(default_factory=lambda: StepLatencies(STEPS, WHOLE))
    parts_heard: int = 0
    parts_fetched: int = 0
    parts_recorded: int = 0
    announced_twice: int = 0
    recorded_otherwise: int = 0
    past_deadline: int = 0
    without_verdict: int = 0
    not_recorded: int = 0
    not_told: int = 0
    cut_off: int = 0
    _waiting: OrderedDict[int, Announced] = field(default_factory=OrderedDict)

    def hear(self, seq: int, announced: Announced) -> None:
        """Note a result that came on the topic."""
        if seq in self.heard:
            self.announced_twice += 1
            return
        self.heard.add(seq, seq)
        self.parts_heard += 1
        if seq not in self.recorded:
            self._waiting[seq] = announced
            if len(self._waiting) > REMEMBERED:
                self._waiting.popitem(last=False)

    def fetch(self, seq: int) -> None:
        """Note a result that had to be asked for."""
        if seq not in self.heard and seq not in self.fetched:
            self.fetched.add(seq, seq)
            self.parts_fetched += 1

    def record(self, verdict: Verdict) -> None:
        """Note a record, once, and compare it with what was announced."""
        if verdict.seq in self.recorded:
            return
        self.recorded.add(verdict.seq, verdict.seq)
        self.parts_recorded += 1
        life = self._life_of(verdict)
        life.recorded += 1
        life.first = verdict.seq if life.first is None else min(life.first, verdict.seq)
        said = (verdict.outcome.value, verdict.reason.value)
        self.verdicts[said] += 1
        announced = self._waiting.pop(verdict.seq, said)
        self.recorded_otherwise += announced != said
        self.past_deadline += verdict.verdict_ns >= verdict.deadline_ns
        if verdict.outcome is not Outcome.INVALID:
            stamps = (verdict.captured_ns, verdict.located_ns, verdict.scored_ns, verdict.verdict_ns)
            self.latencies.add((verdict.trigger_ns, *stamps))

    def settle(self) -> None:
        """Once nothing moves any more: what each life of the daemon owes."""
        known = [life for life in self.lives if life.first is not None]
        ends = [life.first - 1 for life in known[1:] if life.first is not None]
        for life, last in zip(known, [*ends, max(self.recorded.largest, self.heard.largest)], strict=True):
            self._settle(life, life.first or 0, last)

    @property
    def triggers(self) -> int:
        """Parts that asked: by the daemon's own count, or its records where it was killed; and what was announced."""
        counted = sum(life.recorded if life.triggers is None else life.triggers for life in self.lives)
        return counted + self.not_recorded

    @property
    def lost(self) -> int:
        """Parts without a verdict, verdicts without a record, verdicts that nobody could hear or fetch."""
        return self.without_verdict + self.not_recorded + self.not_told

    def untold(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges of first..last that were neither heard nor fetched."""
        return [gap for begin, end in self.heard.missing(first, last) for gap in self.fetched.missing(begin, end)]

    def _settle(self, life: Life, first: int, last: int) -> None:
        """A clean end leaves no number out; a kill may: those that were set aside, and parts without a verdict yet."""
        no_record = self.recorded.missing(first, last)
        not_recorded = sum(_size([gap]) - _size(self.untold(*gap)) for gap in no_record)
        self.not_recorded += not_recorded
        self.not_told += sum(_size([gap]) - _size(self.recorded.missing(*gap)) for gap in self.untold(first, last))
        skipped = _size(no_record) - not_recorded
        if life.triggers is None:
            self.cut_off += skipped
        else:
            self.without_verdict += max(skipped, life.triggers - life.recorded - not_recorded, 0)

    def _life_of(self, verdict: Verdict) -> Life:
        """The daemon process that took the part: of the newest, for nearly every part."""
        for life in reversed(self.lives):
            if verdict.trigger_ns >= life.begun_ns:
                return life
        return self.lives[0]


def _size(ranges: list[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
