"""The whole machine as one table, and its life cycle: start, run, stop. The only module that knows the stages."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Semaphore

import structlog
import zmq

from inspectd.camera import Acquisition, AcquisitionPlan, Camera
from inspectd.camera_watch import WatchedCamera
from inspectd.challenge import ChallengeDesk, ChallengeReminder
from inspectd.config import Station
from inspectd.engine_guard import Engine, EngineGuard
from inspectd.errors import InspectdError
from inspectd.gate import Gate, margin_ns
from inspectd.gate_loop import GateLoop
from inspectd.health.drift_monitor import DriftMonitor
from inspectd.health.heartbeat import Heartbeat, State
from inspectd.health.meters import Count, Meters, Stage, Step
from inspectd.inspect import Inspection, LocatePart, PartFault
from inspectd.intake import Intake
from inspectd.locate import LocateFault, Locator
from inspectd.messages import Image, Pose, Record, Verdict
from inspectd.outputs.queries import Queries, RecentMaps
from inspectd.outputs.rejects import make_tracker
from inspectd.outputs.topics import PUBLISHED_BOUND, Topics
from inspectd.records.images import ImageKeeper, ImagePolicy
from inspectd.records.journal import Noting
from inspectd.records.ledger import Note
from inspectd.records.opening import Records
from inspectd.records.reading import RecordReader
from inspectd.records.recorder import Recorder
from inspectd.records.retention import Retention
from inspectd.register import Register
from inspectd.triggers import MessageTriggers, TimerTriggers, TriggerSource
from inspectd.wire.door import Door
from inspectd.wire.sockets import Context, Socket, pull, push
from inspectd.worker import Worker

PARTS, FRAMES, GATE = "inproc://parts", "inproc://frames", "inproc://gate"
ROWS, IMAGES = "inproc://rows", "inproc://images"
RESULTS, QUERIES, TRIGGERS = "outputs.results", "outputs.queries", "trigger.endpoint"


@dataclass(frozen=True, slots=True)
class Row:
    """One stage, which is one thread: where its messages come from, how many may wait there, and where its own go.

    patience_s: longest time between two rounds of its loop, beside what the station's settings allow (`_patience`).
    """

    stage: Stage
    reads: str
    bound: int
    writes: tuple[str, ...]
    patience_s: float


TABLE = (
    #   stage          reads      bound   writes                  patience_s
    Row(Stage.TRIGGER, TRIGGERS, 1_000, (PARTS, GATE), 2.0),  # .. names and numbers each part, and tells the gate
    Row(Stage.ACQUIRE, PARTS, 1_000, (FRAMES, GATE), 2.0),  # .... camera -> frame
    Row(Stage.INSPECT, FRAMES, 8, (GATE,), 2.0),  # .............. frame -> locate -> engine -> scores
    Row(Stage.GATE, GATE, 10_000, (RESULTS, ROWS, IMAGES), 2.0),  # one verdict per trigger, by its deadline
    Row(Stage.RECORD, ROWS, 10_000, (), 10.0),  # ................ records.db
    Row(Stage.IMAGES, IMAGES, 8, (ROWS,), 10.0),  # .............. images/
    Row(Stage.QUERY, QUERIES, 100, (QUERIES,), 10.0),  # ......... answers from the records
)
BOUNDS = {row.reads: row.bound for row in TABLE}
POSITIONS_BOUND = 64
FOOTAGE = ("folder", "video")
CAMERA_OPENS_S = 60.0
STAGE_STARTS_S = 10.0
STAGE_ENDS_S = 5.0
HEARTBEAT_S = 1.0
POLL_S = 0.1
log = structlog.get_logger(__name__)


class StageFailed(InspectdError):
    """A stage ended with an error, and the pipeline with it; the exit code is that of the error."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(f"stage {stage} failed: {error}")
        self.exit_code = getattr(error, "exit_code", InspectdError.exit_code)


def locate_part(locator: Locator) -> LocatePart:
    """A locator as the inspect stage takes it."""

    def locate(image: Image, out: Image) -> Pose:
        try:
            return locator.locate(image, out).pose
        except LocateFault as fault:
            raise PartFault(fault.reason, fault.detail) from fault

    return locate


class Pipeline:
    """One station's stages and what they share. `start`, then `run`, then `stop`, each once, from one thread.

    Making it opens the records and refuses a second daemon on them (StorageError). camera: called in the thread that
    uses it. load: the engine of the bundle in a folder, None: the active one. max_parts: the run ends after so many.
    """

    def __init__(
        self,
        station: Station,
        *,
        engine: Engine,
        load: Callable[[Path | None], Engine],
        locate: LocatePart,
        camera: Callable[[], Camera],
        max_parts: int | None = None,
    ) -> None:
        self._station, self._engine, self._locate, self._camera = station, engine, locate, camera
        self._max_parts = max_parts
        self._margin_ns = margin_ns(station.line.deadline_ms, station.line.margin_ms)
        self._folder: Path = station.records.folder / station.station
        keep = station.records
        self._records = Records(self._folder, sync_s=keep.sync_ms / 1e3, set_aside=keep.damaged == "set_aside")
        self.meters = Meters()
        self._drift = DriftMonitor(station.drift, self.meters.registry)
        self._drift.adopt(engine.bundle_hash, engine.reference)
        self._guard = EngineGuard(
            engine, load=load, settings=station.supervision, meters=self.meters, changed=self._adopt
        )
        self._challenges = ChallengeDesk(lambda: self._records.sequence.upcoming, engine.bundle_hash)
        self._reminder = ChallengeReminder(self._folder, engine.bundle_hash, station.challenge.every_hours)
        self.heartbeat = Heartbeat(
            self.meters,
            station=station.station,
            bundle_hash=engine.bundle_hash,
            engine=str(engine),
            patience_s={row.stage: row.patience_s + _patience(station, row.stage) for row in TABLE},
            concerns={"drift": self._drift, "challenge": self._reminder, "supervision": self._guard},
        )
        self._describe(engine)
        self._maps = RecentMaps()
        paced = station.trigger.source == "camera" and station.camera.kind in FOOTAGE
        self._room = Semaphore(1) if paced else None
        self._context: Context = zmq.Context()
        self._go = Event()
        self.hangs = True  # until a clean end: something that the process's end must not wait for
        self._something_ended = Event()
        self._door = Door(
            self._context,
            station.endpoints(),
            keys=station.key_folder(),
            refused=partial(self.meters.count, Count.CLIENTS_REFUSED),
        )
        bodies = {
            Stage.TRIGGER: self._take_triggers,
            Stage.ACQUIRE: self._acquire,
            Stage.INSPECT: self._inspect,
            Stage.GATE: self._judge,
            Stage.RECORD: self._record,
            Stage.IMAGES: self._keep_images,
            Stage.QUERY: self._answer,
        }
        self._workers = {
            row.stage: Worker(row.stage.value, bodies[row.stage], self._something_ended.set) for row in TABLE
        }

    def start(self) -> None:
        """Start every stage, receivers before senders; no part is taken yet. Raises what a stage could not do."""
        try:
            self._door.open(self._something_ended.set)
            for row in reversed(TABLE):
                self._workers[row.stage].start(CAMERA_OPENS_S if row.stage is Stage.ACQUIRE else STAGE_STARTS_S)
        except BaseException:
            self.stop()
            raise

    def thread_id(self, stage: Stage) -> int:
        """The system's id of a started stage's thread."""
        return self._workers[stage].thread_id

    def run(self, should_stop: Callable[[], bool], each_turn: Callable[[], None]) -> None:
        """Take parts until told to stop, the footage ends, or a stage fails (StageFailed). Turns every 0.1 s."""
        self.heartbeat.set_phase(State.RUNNING)
        self._go.set()
        while not should_stop() and not self._something_ended.wait(POLL_S):
            self._guard.check()
            each_turn()
            self._reminder.refresh()
        for worker in [*self._door.workers, *self._workers.values()]:
            if worker.error is not None:
                raise StageFailed(worker.name, worker.error) from worker.error

    def exchange_bundle(self, bundle: Path | None) -> None:
        """Load the bundle in a folder (None: the active one), and judge by it as soon as it may; does not block."""
        self._guard.exchange(bundle)

    def _adopt(self, engine: Engine) -> None:
        """Another bundle is about to judge."""
        self._drift.adopt(engine.bundle_hash, engine.reference)
        self._challenges.judged_by(engine.bundle_hash)
        self._reminder.judged_by(engine.bundle_hash)
        self.heartbeat.set_engine(engine.bundle_hash, str(engine))
        self._describe(engine)

    def _describe(self, engine: Engine) -> None:
        info = engine.runtime.info
        self.meters.describe(
            version=importlib.metadata.version("inspectd"),
            station=self._station.station,
            bundle=engine.bundle_hash[:16],
            engine=f"{info.runtime} {info.version} {info.precision}",
        )

    def stop(self) -> bool:
        """No more triggers, drain, flush the records, say goodbye. Blocks for seconds at most; True for a clean end."""
        self.heartbeat.set_phase(State.STOPPING)
        self._go.set()
        clean = True
        for row in TABLE:  # each stage ends when those that write to it have ended and its queue is empty
            ends_s = STAGE_ENDS_S + _patience(self._station, row.stage)
            if row.stage is Stage.RECORD:  # its writers are the gate and the images stage
                clean = self._workers[Stage.IMAGES].stop(STAGE_ENDS_S) and clean
            if not self._workers[row.stage].stop(ends_s):
                log.error("stage did not end", stage=row.stage.value)
                clean = False
        clean = self._door.close() and clean
        self.heartbeat.set_phase(State.STOPPED)
        try:
            self._records.sequence.close()
        except OSError as error:
            log.error("sequence numbers not given back: a gap follows", why=str(error))
        if clean:  # a stage that hangs still holds its sockets and the database: the process's end frees them
            self._records.close()
            self._context.term()
            self.hangs = not self._guard.close()
        return clean

    def _take_triggers(self, stop: Event, ready: Callable[[], None]) -> None:
        with ExitStack() as stack:
            gate = stack.enter_context(closing(push(self._context, GATE, BOUNDS[GATE])))
            parts = stack.enter_context(closing(push(self._context, PARTS, BOUNDS[PARTS])))
            positions = stack.enter_context(closing(push(self._context, GATE, POSITIONS_BOUND)))
            triggers = self._triggers()
            self.meters.beat(Stage.TRIGGER)
            if triggers is not None:
                stack.callback(triggers.close)
            ready()
            self._go.wait()
            if triggers is None:  # the camera itself says when: the acquire stage takes the parts in
                while not stop.wait(POLL_S):
                    self.meters.beat(Stage.TRIGGER)
                return
            Intake(
                self._register(gate),
                triggers=triggers,
                gate=gate,
                camera=parts,
                positions=positions,
                max_parts=self._max_parts,
                meters=self.meters,
            ).run(stop)

    def _register(self, gate: Socket) -> Register:
        return Register(
            station=self._station.station,
            deadline_ms=self._station.line.deadline_ms,
            next_seq=self._records.sequence.next,
            gate=gate,
            meters=self.meters,
        )

    def _acquire(self, stop: Event, ready: Callable[[], None]) -> None:
        with ExitStack() as stack:
            parts = stack.enter_context(closing(pull(self._context, PARTS)))
            gate = stack.enter_context(closing(push(self._context, GATE, BOUNDS[GATE])))
            frames = stack.enter_context(closing(push(self._context, FRAMES, BOUNDS[FRAMES])))
            checks = self._station.camera
            camera = stack.enter_context(
                closing(
                    WatchedCamera(
                        self._camera,
                        refuse_repeated=checks.refuse_repeated,
                        fixed_size=checks.fixed_size,
                        meters=self.meters,
                    )
                )
            )
            plan = AcquisitionPlan(frame_timeout_ms=self._station.trigger.frame_timeout_ms, max_parts=self._max_parts)
            acquisition = Acquisition(
                plan,
                camera=camera,
                triggers=None if self._station.trigger.source == "camera" else parts,
                register=self._register(gate),
                gate=gate,
                frames=frames,
                room=self._room,
                meters=self.meters,
            )
            self.meters.beat(Stage.ACQUIRE)
            ready()
            self._go.wait()
            acquisition.run(stop)

    def _triggers(self) -> TriggerSource | None:
        settings = self._station.trigger
        if settings.source == "timer":
            return TimerTriggers(settings.period_ms)
        if settings.source == "zmq" and settings.endpoint is not None:
            return MessageTriggers(self._door.bind(zmq.PULL, settings.endpoint, BOUNDS[TRIGGERS]), self.meters)
        return None

    def _inspect(self, stop: Event, ready: Callable[[], None]) -> None:
        with (
            closing(pull(self._context, FRAMES)) as frames,
            closing(push(self._context, GATE, BOUNDS[GATE])) as gate,
        ):
            inspection = Inspection(
                engines=self._guard,
                locate=self._locate,
                frames=frames,
                gate=gate,
                bound=2 * BOUNDS[FRAMES],
                margin_ns=self._margin_ns,
                grace_s=self._station.supervision.hang_s,
                meters=self.meters,
            )
            ready()
            inspection.run(stop)

    def _judge(self, stop: Event, ready: Callable[[], None]) -> None:
        with ExitStack() as stack:
            inbox = stack.enter_context(closing(pull(self._context, GATE)))
            rows = stack.enter_context(closing(push(self._context, ROWS, BOUNDS[ROWS])))
            images = stack.enter_context(closing(push(self._context, IMAGES, BOUNDS[IMAGES])))
            socket = self._door.bind(zmq.PUB, self._station.outputs.results, PUBLISHED_BOUND)
            topics = Topics(socket, self._station.station)
            stack.callback(self._say_goodbye, topics)
            gate = Gate(
                thresholds=self._engine.thresholds,
                bundle_hash=self._engine.bundle_hash,
                invalid_action=self._station.line.invalid_action,
                challenge_of=self._challenges.name_of,
            )
            loop = GateLoop(
                gate,
                inbox=inbox,
                rows=rows,
                images=images,
                note=Noting(self._records.journal, self.meters),
                tracker=make_tracker(self._station.tracking, self._left_over()),
                announce=partial(self._announce, topics),
                tell_reject=topics.tell_reject,
                keep_image=ImagePolicy(self._station.records.passed_image_every),
                keep_map=self._maps.keep,
                margin_ns=self._margin_ns,
                meters=self.meters,
            )
            ready()
            loop.run(stop, _every(HEARTBEAT_S, lambda: topics.heartbeat(self.heartbeat.message())))

    def _left_over(self) -> list[Verdict]:
        """What an earlier run was to reject and, killed, told nobody."""
        with RecordReader(self._folder) as reader:
            return [part.verdict for part in reader.untold()]

    def _announce(self, topics: Topics, verdict: Verdict) -> None:
        begun_ns = time.monotonic_ns()
        topics.announce(verdict)
        told_ns = time.monotonic_ns()
        self.meters.observe(Step.PUBLISH, told_ns - begun_ns)
        self.meters.verdict(verdict, told_ns)
        if self._room is not None:
            self._room.release()

    def _say_goodbye(self, topics: Topics) -> None:
        self.heartbeat.set_phase(State.STOPPED)
        topics.close(self.heartbeat.message())

    def _record(self, stop: Event, ready: Callable[[], None]) -> None:
        keep, ledger = self._station.records, self._records.ledger
        retention = Retention(ledger, self._folder, keep_days=keep.keep_days, keep_bytes=keep.keep_bytes)
        with closing(pull(self._context, ROWS)) as inbox:
            recorder = Recorder(
                ledger,
                inbox=inbox,
                retention=retention,
                settle=self._records.journal.settle,
                prepare=self._records.prepare,
                meters=self.meters,
                watch=self._watch,
            )
            ready()
            recorder.run(stop)
            self._challenges.close(ledger)

    def _watch(self, record: Record) -> list[Note]:
        """What else looks at each recorded part; what is to be written of it."""
        self._drift.take(record)
        return self._challenges.take(record)

    def _keep_images(self, stop: Event, ready: Callable[[], None]) -> None:
        with (
            closing(pull(self._context, IMAGES)) as inbox,
            closing(push(self._context, ROWS, BOUNDS[ROWS])) as rows,
        ):
            keeper = ImageKeeper(self._folder, inbox=inbox, rows=rows, meters=self.meters)
            ready()
            keeper.run(stop)

    def _answer(self, stop: Event, ready: Callable[[], None]) -> None:
        with (
            RecordReader(self._folder) as reader,
            closing(self._door.bind(zmq.ROUTER, self._station.outputs.queries, BOUNDS[QUERIES])) as socket,
        ):
            queries = Queries(
                socket,
                results=partial(_recorded, reader),
                status=self.heartbeat.message,
                challenge=self._challenges.begin,
                maps=self._maps,
                meters=self.meters,
            )
            ready()
            queries.run(stop)


def _recorded(reader: RecordReader, first: int, last: int, limit: int) -> tuple[list[Verdict], int]:
    """What the query stage answers from: verdicts of the records, and the newest number there, which is read first."""
    newest = reader.newest()
    return [part.verdict for part in reader.between(first, min(last, newest), limit)], newest


def _patience(station: Station, stage: Stage) -> float:
    """How much longer than its own time a stage may take: the camera's timeout, the engine's."""
    if stage is Stage.ACQUIRE:
        return station.trigger.frame_timeout_ms / 1e3
    return station.line.deadline_ms / 1e3 + station.supervision.hang_s if stage is Stage.INSPECT else 0.0


def _every(period_s: float, action: Callable[[], None]) -> Callable[[], None]:
    """A function that does the action when `period_s` has passed since it last did."""
    next_s = 0.0

    def maybe() -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + period_s
            action()

    return maybe
