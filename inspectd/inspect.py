"""The stage Frame -> Scores, through one runtime of engines/: choose the next part, locate, infer, or say why not."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from engines.errors import EngineFault, EngineTimeout
from engines.part_statistics import Appearance, appearance
from engines.runtimes import Outputs, Slot
from inspectd.engine_guard import Engine, Engines, LocatePart
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.messages import Fault, Frame, Pose, Reason, Scores
from inspectd.overload import Cost, choose
from inspectd.wire.errors import WireError
from inspectd.wire.sockets import Socket, receive, send

IDLE_MS = 50
COMPANY_POLL_S = 200e-6
"""Between two looks for company within its last millisecond: a poll knows whole ones only."""


class PartFault(Exception):
    """The part cannot be located: the reason for its verdict, and one line for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Begun:
    """A part that the engine was given."""

    frame: Frame
    slot: Slot
    pose: Pose
    looks: Appearance
    located_ns: int


class Inspector:
    """Frames -> scores, one part at a time or a batch at a time: the step that the daemon and a replay share.

    The part image is written straight into the engine's input buffer. locate: for engines that bring none of their own.
    grace_s: how long beyond a part's deadline the engine is waited for.
    """

    def __init__(self, *, engines: Engines, locate: LocatePart, grace_s: float, meters: Meters) -> None:
        self._engines = engines
        self._locate = locate
        self._grace_s = grace_s
        self._meters = meters
        self._failure: tuple[str, bool] | None = None
        self.together = 1
        """Parts that the last engine used takes in one inference."""

    def inspect(self, frame: Frame) -> Scores | Fault:
        """Locate and infer one part; blocks for the engine, at most `grace_s` beyond the part's deadline.

        The scores of a part whose deadline passes meanwhile are still returned: they are recorded as late.
        """
        (answer,) = self.inspect_together(iter((frame,)))
        return answer

    def inspect_together(self, frames: Iterator[Frame]) -> list[Scores | Fault]:
        """As `inspect`, for as many of `frames` as one inference takes; no further one is taken off the iterator.

        `frames` gives one at least. Where it waits for company, the first part waits with it.
        """
        engine = self._engines.current()
        if engine is None:
            why = "the engine was given up, another one is being loaded"
            return [_fault(next(frames), Reason.ENGINE_FAULT, why)]
        self.together = engine.runtime.info.batch
        slots = engine.runtime.slots[: self.together]
        begun: list[_Begun] = []
        answers: list[Scores | Fault] = []
        for frame in frames:
            part = self._begin(frame, slots[len(begun)], engine.locate or self._locate)
            if isinstance(part, Fault):
                answers.append(part)
            else:
                begun.append(part)
            if len(begun) in {0, self.together}:
                break
        answers += [self._end(part, engine) for part in begun]
        self._tell(answers)
        return answers

    def _tell(self, answers: Sequence[Scores | Fault]) -> None:
        """Tell of the inference once all of its parts have ended: an engine that is given up is closed meanwhile."""
        failure, self._failure = self._failure, None
        if failure is not None:
            detail, hung = failure
            self._engines.failed(detail, hung=hung)
        if any(isinstance(answer, Scores) for answer in answers):
            self._engines.judged()

    def _begin(self, frame: Frame, slot: Slot, locate: LocatePart) -> _Begun | Fault:
        """Locate the part into the slot, and start it."""
        taken_ns = time.monotonic_ns()
        self._meters.observe(Step.HAND_OVER, taken_ns - frame.captured_ns)
        try:
            pose = locate(frame.image, slot.input)
        except PartFault as fault:
            return _fault(frame, fault.reason, fault.detail)
        except Exception as error:  # the stage loop: no part may take the stage down
            self._meters.count(Count.STAGE_ERRORS)
            return _fault(frame, Reason.BAD_IMAGE, f"locate: {type(error).__name__}: {error}")
        finally:
            located_ns = time.monotonic_ns()
            self._meters.observe(Step.LOCATE, located_ns - taken_ns)
        try:
            slot.start()
            looks = appearance(slot.input)  # while the engine works: it costs the verdict nothing
        except Exception as error:  # the stage loop again
            return self._broken(frame, error)
        return _Begun(frame, slot, pose, looks, located_ns)

    def _end(self, part: _Begun, engine: Engine) -> Scores | Fault:
        """What the engine says of it."""
        now_ns, deadline_ns = time.monotonic_ns(), max(part.frame.deadline_ns, part.located_ns)
        try:
            outputs = part.slot.wait(max(0.0, (deadline_ns - now_ns) / 1e9 + self._grace_s))
        except Exception as error:  # the stage loop once more
            return self._broken(part.frame, error)
        scored_ns = time.monotonic_ns()
        self._meters.observe(Step.ENGINE, scored_ns - part.located_ns)
        return self._judgeable(part, engine, outputs, scored_ns)

    def _broken(self, frame: Frame, error: Exception) -> Fault:
        """The engine's failure, as this part's fault."""
        detail = str(error)
        if not isinstance(error, EngineFault):
            self._meters.count(Count.STAGE_ERRORS)
            detail = f"{type(error).__name__}: {error}"
        return self._failed(frame, Reason.ENGINE_FAULT, detail, hung=isinstance(error, EngineTimeout))

    def _failed(self, frame: Frame, reason: Reason, detail: str, *, hung: bool = False) -> Fault:
        self._failure = (detail, hung or (self._failure is not None and self._failure[1]))
        return _fault(frame, reason, detail)

    def _judgeable(self, part: _Begun, engine: Engine, outputs: Outputs, scored_ns: int) -> Scores | Fault:
        """The engine's answer as Scores, or the Fault that it is."""
        frame, looks = part.frame, part.looks
        scores = (outputs.part_score, *(float(score) for score in outputs.region_scores))
        if len(scores) != len(engine.regions) + 1:
            return self._failed(frame, Reason.ENGINE_FAULT, f"the engine gave {len(scores) - 1} region scores")
        if not all(math.isfinite(score) for score in scores):
            return self._failed(frame, Reason.NOT_A_NUMBER, "the engine gave a score that is not a finite number")
        return Scores(
            seq=frame.seq,
            part_id=frame.part_id,
            part_score=scores[0],
            region_scores=tuple(zip(engine.regions, scores[1:], strict=True)),
            thresholds=engine.thresholds,
            bundle_hash=engine.bundle_hash,
            captured_ns=frame.captured_ns,
            located_ns=part.located_ns,
            scored_ns=scored_ns,
            pose=part.pose,
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
    company_s: how long a part that does not fill the engine's batch waits for others.
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
        company_s: float = 0.0,
    ) -> None:
        self._inspector = Inspector(engines=engines, locate=locate, grace_s=grace_s, meters=meters)
        self._frames, self._gate = frames, gate
        self._bound = bound
        self._margin_ns = margin_ns
        self._company_s = company_s
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
            together=self._inspector.together,
        )
        self._waiting = choice.stay
        self._meters.set_waiting(len(choice.stay))
        if choice.next is None and any(now_ns + self._margin_ns < frame.deadline_ns for frame in choice.drop):
            self._cost.doubt()
        for frame in choice.drop:
            self._meters.count(Count.OVERLOAD)
            self._send(_fault(frame, Reason.OVERLOAD, "no time was left to inspect the part before its deadline"))
        if choice.next is not None:
            self._inspect(choice.next, choice.company)

    def _inspect(self, first: Frame, company: list[Frame]) -> None:
        """Inspect it, with company where the engine takes more, and learn from it how long that takes."""
        taken_ns = time.monotonic_ns()
        answers = self._inspector.inspect_together(self._together(first, company))
        self._waiting = sorted([*company, *self._waiting], key=lambda frame: frame.seq)
        scored = [answer.scored_ns for answer in answers if isinstance(answer, Scores)]
        if scored:
            self._cost.learn(max(scored) - taken_ns)
        for answer in answers:
            self._send(answer)

    def _together(self, first: Frame, company: list[Frame]) -> Iterator[Frame]:
        """The first, its company, and then what comes within `company_s`; taken off the lists as it is asked for."""
        yield first
        until_s = time.monotonic() + self._company_s
        while True:
            self._take_in()
            if line := company or self._waiting:
                yield line.pop(0)
                continue
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            if not self._frames.poll(int(left_s * 1000)):
                time.sleep(min(left_s, COMPANY_POLL_S))

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
