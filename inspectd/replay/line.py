"""Footage -> records, through the line's own stages one after the other: no threads, no queues, no deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from inspectd.engine_guard import Engine, LocatePart, OneEngine
from inspectd.gate import Gate
from inspectd.health.meters import Meters
from inspectd.inspect import Inspector
from inspectd.messages import Fault, Frame, Reason, Record, Scores, Trigger, Verdict
from inspectd.replay.footage import FootagePart

PATIENCE_NS = 60_000_000_000
"""How long one part may take. Nothing in a replay is late, but an engine that hangs must not hang the replay."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One part after the replay: its record as the line gives it, and the footage's own knowledge of it."""

    record: Record
    part: FootagePart


class ReplayLine:
    """One station's locate, engine, decision and gate, on one engine; used by one thread.

    locate: as the inspect stage takes it. invalid_action: what the line does with a part that cannot be judged.
    """

    def __init__(
        self,
        station: str,
        *,
        engine: Engine,
        locate: LocatePart,
        invalid_action: Literal["accept", "reject", "stop"],
    ) -> None:
        self._station = station
        self._inspector = Inspector(engines=OneEngine(engine), locate=locate, grace_s=0.0, meters=Meters())
        self._gate = Gate(thresholds=engine.thresholds, bundle_hash=engine.bundle_hash, invalid_action=invalid_action)
        self._seq = 0
        self.bundle_hash = engine.bundle_hash
        info = engine.runtime.info
        self.engine = f"{info.runtime} {info.version.partition('-')[0]} {info.precision}"

    def judge(self, part: FootagePart) -> Record:
        """Inspect one part and return its record, without its image; blocks for the engine.

        Raises RuntimeError where the gate does not answer as the daemon's does.
        """
        self._seq += 1
        now_ns = time.monotonic_ns()
        trigger = Trigger(
            station=self._station,
            seq=self._seq,
            part_id=part.part_id,
            trigger_ns=now_ns,
            trigger_wall_ns=time.time_ns(),
            deadline_ns=now_ns + PATIENCE_NS,
        )
        self._gate.on_trigger(trigger, now_ns)
        found = self._inspect(part, trigger)
        if isinstance(found, Scores):
            answers = self._gate.on_scores(found, time.monotonic_ns())
        else:
            answers = self._gate.on_fault(found, time.monotonic_ns())
        verdict = answers[0] if answers else None
        if not isinstance(verdict, Verdict):
            raise RuntimeError(f"the gate gave no verdict on part {part.part_id}")
        pose = found.pose if isinstance(found, Scores) else None
        return Record(verdict=verdict, pose=pose, source=part.source)

    def _inspect(self, part: FootagePart, trigger: Trigger) -> Scores | Fault:
        if part.image is None:
            return Fault(
                seq=trigger.seq,
                part_id=part.part_id,
                reason=Reason.BAD_IMAGE,
                detail=part.fault,
                label=part.label,
                source=part.source,
            )
        frame = Frame(
            seq=trigger.seq,
            part_id=part.part_id,
            trigger_ns=trigger.trigger_ns,
            captured_ns=trigger.trigger_ns,
            deadline_ns=trigger.deadline_ns,
            image=part.image,
            source=part.source,
            label=part.label,
        )
        return self._inspector.inspect(frame)


def replay(
    footage: Iterable[FootagePart], lines: list[ReplayLine], *, max_parts: int | None, progress: Callable[[int], None]
) -> list[list[Replayed]]:
    """Run the footage through every line, each image read once; returns for each line its parts in footage order.

    Blocks for about one inference a part and line; `progress(done)` after each part. Images are not kept.
    """
    results: list[list[Replayed]] = [[] for _ in lines]
    for done, part in enumerate(islice(footage, max_parts), start=1):
        known = replace(part, image=None)
        for line, result in zip(lines, results, strict=True):
            result.append(Replayed(line.judge(part), known))
        progress(done)
    return results
