"""The stage Frame -> Scores, through one runtime of engines/: choose the next part, locate, infer, or say why not."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from engines.errors import EngineFault, EngineTimeout
from engines.part_statistics import Appearance, appearance
from engines.runtimes import Outputs
from inspectd.engine_guard import Engine, Engines
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.messages import Fault, Frame, Image, Pose, Reason, Scores
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive, send

IDLE_MS = 50
MOST_STAYING = 4
"""Parts that are kept behind the newest under overload, for when the load falls; more would keep newer ones out."""
NS_PER_MS = 1_000_000


class PartFault(Exception):
    """The part cannot be located: the reason for its verdict, and one line for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class LocatePart(Protocol):
    """Writes the part of an (H, W, 3) uint8 RGB frame, in canonical pose, into `out`."""

    def __call__(self, image: Image, out: Image) -> Pose:
        """Return where the part lay. Raises PartFault."""


@dataclass(slots=True)
class Cost:
    """How long a part takes, in nanoseconds: at least, and likely (mean plus four mean deviations, as in RFC 6298).

    The least follows shorter durations at once and longer ones slowly. `doubt` lowers it whenever parts are dropped
    because of it and none is inspected, so that no stall can make the stage drop every part after it for good.
    """

    mean_ns: float = 0.0
    deviation_ns: float = 0.0
    least_ns: float = 0.0

    @property
    def likely_ns(self) -> int:
        """What a part is expected to take at most."""
        return round(self.mean_ns + 4 * self.deviation_ns)

    def learn(self, duration_ns: int) -> None:
        """Take a measured duration into account."""
        if self.mean_ns == 0.0:
            self.mean_ns, self.deviation_ns, self.least_ns = float(duration_ns), duration_ns / 4, duration_ns / 4
            return
        self.deviation_ns += (abs(duration_ns - self.mean_ns) - self.deviation_ns) / 4
        self.mean_ns += (duration_ns - self.mean_ns) / 8
        self.least_ns += (duration_ns - self.least_ns) / (64 if duration_ns > self.least_ns else 1)

    def doubt(self) -> None:
        """Lower the least by a tenth."""
        self.least_ns *= 0.9


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the waiting frames is next, which stay, and which cannot be answered in time any more."""

    next: Frame | None
    stay: list[Frame]
    drop: list[Frame]


def choose(waiting: Sequence[Frame], now_ns: int, *, least_ns: int, likely_ns: int) -> Choice:
    """Drop what cannot meet its deadline even at best; then the oldest, or the newest where not all can likely be met.

    waiting: oldest first. least_ns, likely_ns: time of one part. A part alone is always tried: that costs nobody. What
    cannot be met any more once the newest is done is dropped now: the line hears of it earlier, and with the reason.
    """
    possible = [frame for frame in waiting if now_ns + least_ns < frame.deadline_ns]
    drop = [frame for frame in waiting if now_ns + least_ns >= frame.deadline_ns]
    if not possible:
        return Choice(None, [], drop)
    if all(now_ns + (turn + 1) * likely_ns < frame.deadline_ns for turn, frame in enumerate(possible)):
        return Choice(possible[0], possible[1:], drop)
    *others, newest = possible
    stay = [frame for frame in others if now_ns + 2 * least_ns < frame.deadline_ns][-MOST_STAYING:]
    return Choice(newest, stay, drop + others[: len(others) - len(stay)])


class Inspector:
    """Frame -> scores, one part at a time: the step that the daemon and a replay share.

    The part image is written straight into the engine's input buffer.
    grace_s: how long beyond a part's deadline the engine is waited for.
    """

    def __init__(self, *, engines: Engines, locate: LocatePart, grace_s: float, meters: Meters) -> None:
        self._engines = engines
        self._locate = locate
        self._grace_s = grace_s
        self._meters = meters

    def inspect(self, frame: Frame) -> Scores | Fault:
        """Locate and infer one part; blocks for the engine, at most `grace_s` beyond the part's deadline.

        The scores of a part whose deadline passes meanwhile are still returned: they are recorded as late.
        """
        taken_ns = time.monotonic_ns()
        self._meters.observe(Step.HAND_OVER, taken_ns - frame.captured_ns)
        engine = self._engines.current()
        if engine is None:
            return _fault(frame, Reason.ENGINE_FAULT, "the engine was given up, another one is being loaded")
        try:
            pose = self._locate(frame.image, engine.runtime.slots[0].input)
        except PartFault as fault:
            return _fault(frame, fault.reason, fault.detail)
        except Exception as error:  # the stage loop: no part may take the stage down
            self._meters.count(Count.STAGE_ERRORS)
            return _fault(frame, Reason.BAD_IMAGE, f"locate: {type(error).__name__}: {error}")
        finally:
            located_ns = time.monotonic_ns()
            self._meters.observe(Step.LOCATE, located_ns - taken_ns)
        return self._infer(frame, engine, pose, located_ns)

    def _infer(self, frame: Frame, engine: Engine, pose: Pose, located_ns: int) -> Scores | Fault:
        """What the engine says of the part image in its buffer."""
        slot = engine.runtime.slots[0]
        try:
            slot.start()
            looks = appearance(slot.input)  # while the engine works: it costs the verdict nothing
            outputs = slot.wait(max(0, frame.deadline_ns - located_ns) / 1e9 + self._grace_s)
        except EngineFault as error:
            return self._failed(frame, Reason.ENGINE_FAULT, str(error), hung=isinstance(error, EngineTimeout))
        except Exception as error:  # the stage loop again
            self._meters.count(Count.STAGE_ERRORS)
            return self._failed(frame, Reason.ENGINE_FAULT, f"{type(error).__name__}: {error}")
        scored_ns = time.monotonic_ns()
        self._meters.observe(Step.ENGINE, scored_ns - located_ns)
        return self._judgeable(frame, engine, pose, outputs, looks, located_ns=located_ns, scored_ns=scored_ns)

    def _failed(self, frame: Frame, reason: Reason, detail: str, *, hung: bool = False) -> Fault:
        self._engines.failed(detail, hung=hung)
        return _fault(frame, reason, detail)

    def _judgeable(
        self,
        frame: Frame,
        engine: Engine,
        pose: Pose,
        outputs: Outputs,
        looks: Appearance,
        *,
        located_ns: int,
        scored_ns: int,
    ) -> Scores | Fault:
        """The engine's answer as Scores, or the Fault that it is."""
        scores = (outputs.part_score, *(float(score) for score in outputs.region_scores))
        if len(scores) != len(engine.regions) + 1:
            return self._failed(frame, Reason.ENGINE_FAULT, f"the engine gave {len(scores) - 1} region scores")
        if not all(math.isfinite(score) for score in scores):
            return self._failed(frame, Reason.NOT_A_NUMBER, "the engine gave a score that is not a finite number")
        self._engines.judged()
        return Scores(
            seq=frame.seq,
            part_id=frame.part_id,
            part_score=scores[0],
            region_scores=tuple(zip(engine.regions, scores[1:], strict=True)),
            thresholds=engine.thresholds,
            bundle_hash=engine.bundle_hash,
            captured_ns=frame.captured_ns,
            located_ns=located_ns,
            scored_ns=scored_ns,
            pose=pose,
            brightness=looks.brightness,
            sharpness=looks.sharpness,
            label=frame.label,
            source=frame.source,
            image=frame.image,
            anomaly_map=outputs.anomaly_map.copy(),  # the slot's buffer is written again with the next part
        )


class Inspection:
    """Frames -> scores or faults; one thread.

    engines: where each part's engine comes from. bound: frames held here beside those in the queue.
    margin_ns: how long before its deadline the gate gives a part up. grace_s: as for `Inspector`.
    """

    def __init__(
        self,
        *,
        engines: Engines,
        locate: LocatePart,
        frames: Socket,
        gate: Socket,
        bound: int,
        margin_ns: int,
        grace_s: float,
        meters: Meters,
    ) -> None:
        self._inspector = Inspector(engines=engines, locate=locate, grace_s=grace_s, meters=meters)
        self._frames, self._gate = frames, gate
        self._bound = bound
        self._margin_ns = margin_ns
        self._meters = meters
        self._waiting: list[Frame] = []
        self._cost = Cost()

    def run(self, stop: Event) -> None:
        """Inspect until `stop` is set and no frame waits."""
        while not (stop.is_set() and not self._waiting and not self._frames.poll(0)):
            self._meters.beat(Stage.INSPECT)
            if not self._waiting:
                self._frames.poll(IDLE_MS)
            self._take_in()
            self.step()

    def step(self) -> None:
        """Refuse the frames that cannot be answered in time, and inspect the one that is next."""
        if not self._waiting:
            return
        now_ns = time.monotonic_ns()
        choice = choose(
            self._waiting,
            now_ns,
            least_ns=round(self._cost.least_ns) + self._margin_ns,
            likely_ns=self._cost.likely_ns + self._margin_ns,
        )
        self._waiting = choice.stay
        self._meters.set_waiting(len(choice.stay))
        if choice.next is None and any(now_ns + self._margin_ns < frame.deadline_ns for frame in choice.drop):
            self._cost.doubt()
        for frame in choice.drop:
            self._meters.count(Count.OVERLOAD)
            self._send(_fault(frame, Reason.OVERLOAD, "no time was left to inspect the part before its deadline"))
        if choice.next is not None:
            self._send(self.inspect(choice.next))

    def inspect(self, frame: Frame) -> Scores | Fault:
        """As `Inspector.inspect`; learns from it how long a part takes."""
        taken_ns = time.monotonic_ns()
        answer = self._inspector.inspect(frame)
        if isinstance(answer, Scores):
            self._cost.learn(answer.scored_ns - taken_ns)
        return answer

    def _take_in(self) -> None:
        """Take the waiting frames off the queue, up to the bound: the newest are at its end."""
        while len(self._waiting) < self._bound:
            try:
                message = receive(self._frames)
            except WireError:
                self._meters.count(Count.STAGE_ERRORS)  # its trigger is answered at the deadline
                continue
            if message is None:
                return
            if isinstance(message, Frame):
                self._waiting.append(message)

    def _send(self, message: Scores | Fault) -> None:
        """Hand over to the gate; where its queue is full, the gate answers at the deadline and the loss is counted."""
        if not send(self._gate, message):
            self._meters.count(Count.STAGE_ERRORS)


def _fault(frame: Frame, reason: Reason, detail: str) -> Fault:
    return Fault(
        seq=frame.seq,
        part_id=frame.part_id,
        reason=reason,
        detail=detail[:1000],
        captured_ns=frame.captured_ns,
        label=frame.label,
        source=frame.source,
        image=frame.image,
    )
