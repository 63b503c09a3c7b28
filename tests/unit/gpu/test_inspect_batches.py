"""The inspect stage with an engine for four parts at once, over the FAKE CUDA driver: who goes with whom, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import zmq
from line_values import LIMITS, frame
from tiny_plan import REGIONS, expected, part_images, tiny_plan

from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime
from inspectd.engine_guard import Engine
from inspectd.health.meters import Meters
from inspectd.inspect import Inspection, Inspector, PartFault
from inspectd.messages import Fault, Frame, Image, Pose, Reason, Scores
from inspectd.wire.sockets import Context, Socket, pull, push, receive, send

BATCH = 4
LONG_S = 30.0
POSE = Pose(x_px=0.0, y_px=0.0, angle_deg=0.0, scale=1.0)


@dataclass
class Watched:
    """Where the stage takes its engine from; keeps what it is told."""

    engine: Engine | None
    told: list[str] = field(default_factory=list)

    def current(self) -> Engine | None:
        """The engine."""
        return self.engine

    def judged(self) -> None:
        """Keep it."""
        self.told.append("judged")

    def failed(self, why: str, *, hung: bool) -> None:
        """Keep it."""
        self.told.append("hung" if hung else "failed")


def copied(image: Image, out: Image) -> Pose:
    """Locate where the frame is the part; a black one cannot be located."""
    if not image.any():
        raise PartFault(Reason.NO_PART, "black")
    np.copyto(out, image)
    return POSE


def part(seq: int, image: Image | None = None) -> Frame:
    """A frame with time enough that is its own part image."""
    deadline_ns = time.monotonic_ns() + round(LONG_S * 1e9)
    shown = part_images(BATCH)[seq % BATCH] if image is None else image
    return replace(frame(seq), image=shown, deadline_ns=deadline_ns)


@pytest.fixture
def engines(make: Callable[..., TensorRtRuntime], fake: SimpleNamespace) -> Callable[..., Watched]:
    """Makes an engine for some parts at once; inferences are counted from there."""

    def new(batch: int = BATCH, wait_ms: float = 0.0) -> Watched:
        runtime = make(tiny_plan(batch=batch), GpuOptions(batch_wait_ms=wait_ms, graphs=False))
        fake.cuda.inferences = 0
        names = tuple(region.name for region in REGIONS)
        return Watched(Engine(runtime=runtime, regions=names, thresholds=LIMITS, bundle_hash="ab" * 32))

    return new


@dataclass
class Desk:
    """The stage's two queues, from outside."""

    context: Context
    frames: Socket
    parts: Socket
    verdicts: Socket
    scores: Socket

    def inspect(self, engines: Watched, locate: Callable[[Image, Image], Pose], *, company_s: float) -> list[object]:
        """Run the stage over what is queued, and what comes meanwhile; what it told the gate."""
        inspection = Inspection(
            engines=engines,
            locate=locate,
            frames=self.parts,
            gate=self.scores,
            bound=32,
            margin_ns=0,
            grace_s=LONG_S,
            meters=Meters(),
            company_s=company_s,
        )
        stop = Event()
        stop.set()
        inspection.run(stop)
        answers = []
        while (message := receive(self.verdicts)) is not None:
            answers.append(message)
        return answers


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Queues for a stage that runs in the test's own thread."""
    with ExitStack() as stack:
        context: Context = stack.enter_context(zmq.Context())
        parts, verdicts = (stack.enter_context(closing(pull(context, f"inproc://{name}"))) for name in ("in", "out"))
        frames, scores = (stack.enter_context(closing(push(context, f"inproc://{name}", 32))) for name in ("in", "out"))
        yield Desk(context, frames, parts, verdicts, scores)


def seqs(answers: list[object]) -> list[int]:
    """Whose answers these are."""
    return [answer.seq for answer in answers if isinstance(answer, Scores)]


def test_what_waits_goes_together(desk: Desk, engines: Callable[..., Watched], fake: SimpleNamespace) -> None:
    """The first part tells the stage the engine's batch; the parts behind it fill batches, each with its own answer."""
    for seq in range(1, 9):
        send(desk.frames, part(seq))
    answers = desk.inspect(engines(wait_ms=1e6), copied, company_s=LONG_S)
    assert seqs(answers) == list(range(1, 9))
    assert fake.cuda.inferences == 2
    for answer in answers:
        assert isinstance(answer, Scores)
        assert answer.part_score == pytest.approx(expected(part_images(BATCH)[answer.seq % BATCH]).part_score, rel=1e-4)


def test_a_lone_part_waits_no_longer_than_stated(
    desk: Desk, engines: Callable[..., Watched], fake: SimpleNamespace
) -> None:
    """Nobody comes: the part is judged alone, after its wait and not before."""
    send(desk.frames, part(1))
    begun_s = time.monotonic()
    assert seqs(desk.inspect(engines(wait_ms=30.0), copied, company_s=0.03)) == [1]
    assert time.monotonic() - begun_s >= 0.03
    assert fake.cuda.inferences == 1


def test_company_that_comes_in_time_is_taken_along(
    desk: Desk, engines: Callable[..., Watched], fake: SimpleNamespace
) -> None:
    """Parts that arrive while the first one waits join it; the batch is sent when it is full."""

    def located(image: Image, out: Image) -> Pose:
        if not came.is_set():
            came.set()
            for seq in range(2, BATCH + 1):
                send(desk.frames, part(seq))
        return copied(image, out)

    came = Event()
    send(desk.frames, part(1))
    assert seqs(desk.inspect(engines(wait_ms=1e6), located, company_s=LONG_S)) == list(range(1, BATCH + 1))
    assert fake.cuda.inferences == 1


def test_an_engine_of_one_part_never_waits(desk: Desk, engines: Callable[..., Watched], fake: SimpleNamespace) -> None:
    """Where the engine takes one part, as on a CPU, the settings for batches change nothing."""
    for seq in range(1, 4):
        send(desk.frames, part(seq))
    assert seqs(desk.inspect(engines(1), copied, company_s=1e6)) == [1, 2, 3]
    assert fake.cuda.inferences == 3


def test_a_part_that_cannot_be_located_leaves_its_place(
    desk: Desk, engines: Callable[..., Watched], fake: SimpleNamespace
) -> None:
    """It is INVALID by itself; the others are judged in order, and none of them is lost."""
    black = np.zeros_like(part_images(1)[0])
    for seq in range(1, 7):
        send(desk.frames, part(seq, black if seq in {1, 4} else None))
    answers = desk.inspect(engines(wait_ms=1e6), copied, company_s=LONG_S)
    assert seqs(answers) == [2, 3, 5, 6]
    assert sorted(answer.seq for answer in answers if isinstance(answer, Fault)) == [1, 4]
    assert fake.cuda.inferences == 1


def test_company_of_a_part_that_cannot_be_located_comes_next(
    desk: Desk, engines: Callable[..., Watched], fake: SimpleNamespace
) -> None:
    """What was chosen to go with it waits no longer for it, and goes by itself."""
    black = np.zeros_like(part_images(1)[0])
    for seq in range(1, 10):
        send(desk.frames, part(seq, black if seq == 5 else None))
    answers = desk.inspect(engines(wait_ms=1e6), copied, company_s=LONG_S)
    assert [answer.seq for answer in answers if isinstance(answer, Scores | Fault)] == list(range(1, 10))
    assert fake.cuda.inferences == 2


def test_a_first_part_that_cannot_be_located_waits_for_nobody(engines: Callable[..., Watched]) -> None:
    """Its verdict is known at once: nobody is taken off the queue behind it."""
    inspector = Inspector(engines=engines(), locate=copied, grace_s=LONG_S, meters=Meters())
    waiting = iter([part(1, np.zeros_like(part_images(1)[0])), part(2)])
    (answer,) = inspector.inspect_together(waiting)
    assert isinstance(answer, Fault)
    assert answer.reason is Reason.NO_PART
    assert next(waiting).seq == 2


def test_a_failed_batch_is_told_once(engines: Callable[..., Watched], fake: SimpleNamespace) -> None:
    """Each of its parts is INVALID; the guard hears of one failure, not of four, and only when all have ended."""
    watched = engines()
    inspector = Inspector(engines=watched, locate=copied, grace_s=LONG_S, meters=Meters())
    fake.tensorrt.fail.add("execute_async_v3")
    answers = inspector.inspect_together(part(seq) for seq in range(1, BATCH + 1))
    assert [answer.reason for answer in answers if isinstance(answer, Fault)] == [Reason.ENGINE_FAULT] * BATCH
    assert watched.told == ["failed"]
    fake.tensorrt.fail.clear()
    assert len(seqs(list(inspector.inspect_together(part(seq) for seq in range(1, BATCH + 1))))) == BATCH
    assert watched.told == ["failed", "judged"]


def test_a_batch_that_hangs_is_told_as_such(engines: Callable[..., Watched], fake: SimpleNamespace) -> None:
    """No part is waited for longer than its deadline and the grace; the engine counts as hanging."""
    watched = engines()
    inspector = Inspector(engines=watched, locate=copied, grace_s=0.01, meters=Meters())
    fake.cuda.hangs = True
    late = (replace(part(seq), deadline_ns=time.monotonic_ns()) for seq in range(1, BATCH + 1))
    answers = inspector.inspect_together(late)
    assert len([answer for answer in answers if isinstance(answer, Fault)]) == BATCH
    assert watched.told == ["hung"]
    fake.cuda.hangs = False


def test_without_an_engine_nobody_is_taken_off_the_queue() -> None:
    """While another engine is loaded, one part at a time is told so."""
    inspector = Inspector(engines=Watched(None), locate=copied, grace_s=LONG_S, meters=Meters())
    waiting = iter([part(1), part(2)])
    (answer,) = inspector.inspect_together(waiting)
    assert isinstance(answer, Fault)
    assert answer.seq == 1
    assert next(waiting).seq == 2
