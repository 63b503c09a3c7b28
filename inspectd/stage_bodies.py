"""What runs in each stage's thread: which sockets and objects it makes there, and gives up at its end.

Which stages there are, and what lies between them, is the table of `pipeline`: this module belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from threading import Event, Semaphore

import zmq

from inspectd.camera import Acquisition, AcquisitionPlan, Camera
from inspectd.camera_watch import WatchedCamera
from inspectd.config import Station
from inspectd.engine_guard import Engine, LocatePart
from inspectd.gate import Gate, margin_ns
from inspectd.gate_loop import GateLoop
from inspectd.health.heartbeat import State
from inspectd.health.meters import Meters, Stage
from inspectd.health.storage_watch import Shares
from inspectd.inspect import Inspection
from inspectd.intake import Intake
from inspectd.messages import Verdict
from inspectd.outputs.queries import Queries, RecentMaps
from inspectd.outputs.rejects import Settling, make_tracker
from inspectd.outputs.topics import PUBLISHED_BOUND, Messages, Topics
from inspectd.oversight import Oversight
from inspectd.process import wake_in_time
from inspectd.records.images import ImageKeeper, ImagePolicy
from inspectd.records.journal import Noting
from inspectd.records.opening import Records
from inspectd.records.reading import RecordReader
from inspectd.records.recorder import Recorder
from inspectd.records.retention import Retention
from inspectd.records.rows import StoredPart
from inspectd.register import Register
from inspectd.seen_images import SeenImages
from inspectd.triggers import MessageTriggers, TimerTriggers, TriggerSource
from inspectd.wire.door import Door
from inspectd.wire.sockets import Context, Socket, pull, push

PARTS, FRAMES, GATE = "inproc://parts", "inproc://frames", "inproc://gate"
ROWS, IMAGES = "inproc://rows", "inproc://images"
RESULTS, QUERIES, TRIGGERS = "outputs.results", "outputs.queries", "trigger.endpoint"
"""What the stages read and write: queues between two of them, and the settings that name the daemon's own sockets."""

POSITIONS_BOUND = 64
FOOTAGE = ("folder", "video")
POLL_S = 0.1


class StageBodies:
    """The body of each stage, as `Worker` runs it, and what they share; each body is called once, in its own thread.

    engine: the one that judges first. camera: opens it, in the thread that uses it. max_parts: triggers end after so
    many. bounds: how many messages may wait in each queue. go: set when parts are to be taken.
    """

    def __init__(
        self,
        station: Station,
        *,
        engine: Engine,
        locate: LocatePart,
        camera: Callable[[], Camera],
        max_parts: int | None,
        context: Context,
        bounds: Mapping[str, int],
        door: Door,
        records: Records,
        meters: Meters,
        oversight: Oversight,
        go: Event,
    ) -> None:
        self._station, self._engine, self._locate, self._camera = station, engine, locate, camera
        self._max_parts = max_parts
        self._context, self._bounds, self._door = context, bounds, door
        self._records, self._meters, self._oversight = records, meters, oversight
        self._go = go
        self._margin_ns = margin_ns(station.line.deadline_ms, station.line.margin_ms)
        self._maps = RecentMaps()
        self._seen = SeenImages()
        paced = station.trigger.source == "camera" and station.camera.kind in FOOTAGE
        self._room = Semaphore(1) if paced else None  # footage: the next image when its last verdict has been told

    def take_triggers(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `trigger`; where the camera itself says when, the acquire stage takes the parts in."""
        with ExitStack() as stack:
            gate = stack.enter_context(self._to(GATE))
            parts = stack.enter_context(self._to(PARTS))
            positions = stack.enter_context(closing(push(self._context, GATE, POSITIONS_BOUND)))
            triggers = self._triggers()
            self._meters.beat(Stage.TRIGGER)
            wake_in_time()
            if triggers is not None:
                stack.callback(triggers.close)
            ready()
            self._go.wait()
            if triggers is None:
                while not stop.wait(POLL_S):
                    self._meters.beat(Stage.TRIGGER)
                return
            Intake(
                self._register(gate),
                triggers=triggers,
                gate=gate,
                camera=parts,
                positions=positions,
                max_parts=self._max_parts,
                deadline_ms=self._station.line.deadline_ms,
                meters=self._meters,
            ).run(stop)

    def acquire(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `acquire`."""
        with ExitStack() as stack:
            parts = stack.enter_context(self._from(PARTS))
            gate = stack.enter_context(self._to(GATE))
            frames = stack.enter_context(self._to(FRAMES))
            checks, trigger = self._station.camera, self._station.trigger
            camera = WatchedCamera(
                self._camera,
                seen=self._seen if checks.refuse_repeated else None,
                fixed_size=checks.fixed_size,
                meters=self._meters,
            )
            acquisition = Acquisition(
                AcquisitionPlan(frame_timeout_ms=trigger.frame_timeout_ms, max_parts=self._max_parts),
                camera=stack.enter_context(closing(camera)),
                triggers=None if trigger.source == "camera" else parts,
                register=self._register(gate),
                gate=gate,
                frames=frames,
                room=self._room,
                meters=self._meters,
            )
            self._meters.beat(Stage.ACQUIRE)
            ready()
            self._go.wait()
            acquisition.run(stop)

    def inspect(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `inspect`."""
        with self._from(FRAMES) as frames, self._to(GATE) as gate:
            inspection = Inspection(
                engines=self._oversight.guard,
                locate=self._locate,
                frames=frames,
                gate=gate,
                bound=2 * self._bounds[FRAMES],
                margin_ns=self._margin_ns,
                grace_s=self._station.supervision.hang_s,
                meters=self._meters,
                company_s=self._station.engine.batch_wait_ms / 1e3,
            )
            ready()
            inspection.run(stop)

    def judge(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `gate`, and the topics, whose last word is that nobody inspects any more."""
        with ExitStack() as stack:
            inbox = stack.enter_context(self._from(GATE))
            rows = stack.enter_context(self._to(ROWS))
            images = stack.enter_context(self._to(IMAGES))
            socket = self._door.bind(zmq.PUB, self._station.outputs.results, PUBLISHED_BOUND)
            topics = Topics(socket, self._station.station, self._records.run)
            stack.callback(self._say_goodbye, topics)
            gate = Gate(
                thresholds=self._engine.thresholds,
                bundle_hash=self._engine.bundle_hash,
                invalid_action=self._station.line.invalid_action,
                challenge_of=self._oversight.challenges.name_of,
            )
            loop = GateLoop(
                gate,
                inbox=inbox,
                rows=rows,
                images=images,
                note=Noting(self._records.journal, self._meters),
                tracker=make_tracker(self._station.tracking, self._left_over(), Settling(self._go.is_set)),
                prepare=topics.messages,
                announce=partial(self._announce, topics),
                tell_reject=topics.tell_reject,
                keep_image=ImagePolicy(self._station.records.passed_image_every),
                keep_map=self._maps.keep,
                margin_ns=self._margin_ns,
                meters=self._meters,
            )
            ready()
            loop.run(stop, self._oversight.heartbeat.beating(topics.heartbeat))

    def record(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `record`."""
        keep, ledger = self._station.records, self._records.ledger
        with self._from(ROWS) as inbox:
            recorder = Recorder(
                ledger,
                inbox=inbox,
                retention=Retention(
                    ledger,
                    self._records.folder,
                    keep_days=keep.keep_days,
                    shares=Shares.of(keep.keep_bytes, keep.rows_share),
                    watch=self._oversight.storage,
                ),
                settle=self._records.journal.settle,
                prepare=self._records.prepare,
                meters=self._meters,
                watch=self._oversight.take,
            )
            ready()
            recorder.run(stop)
            self._oversight.challenges.close(ledger)

    def keep_images(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `images`."""
        with self._from(IMAGES) as inbox, self._to(ROWS) as rows:
            keeper = ImageKeeper(self._records.folder, inbox=inbox, rows=rows, meters=self._meters)
            ready()
            keeper.run(stop)

    def answer(self, stop: Event, ready: Callable[[], None]) -> None:
        """The stage `query`."""
        with (
            RecordReader(self._records.folder) as reader,
            closing(self._door.bind(zmq.ROUTER, self._station.outputs.queries, self._bounds[QUERIES])) as socket,
        ):
            queries = Queries(
                socket,
                results=partial(_recorded, reader),
                status=self._oversight.heartbeat.message,
                challenge=self._oversight.challenges.begin,
                maps=self._maps,
                meters=self._meters,
                run=self._records.run,
            )
            ready()
            queries.run(stop)

    def _from(self, queue: str) -> closing[Socket]:
        """The receiving end of a queue, until the block ends."""
        return closing(pull(self._context, queue))

    def _to(self, queue: str) -> closing[Socket]:
        """The sending end of a queue, until the block ends."""
        return closing(push(self._context, queue, self._bounds[queue]))

    def _triggers(self) -> TriggerSource | None:
        """What asks for parts; None where that is the camera."""
        settings = self._station.trigger
        if settings.source == "timer":
            return TimerTriggers(settings.period_ms, self._station.line.deadline_ms, self._meters)
        if settings.source == "zmq" and settings.endpoint is not None:
            socket = self._door.bind(zmq.PULL, settings.endpoint, self._bounds[TRIGGERS])
            return MessageTriggers(socket, self._meters)
        return None

    def _register(self, gate: Socket) -> Register:
        return Register(
            station=self._station.station,
            deadline_ms=self._station.line.deadline_ms,
            margin_ns=self._margin_ns,
            next_seq=self._records.sequence.next,
            gate=gate,
            meters=self._meters,
        )

    def _left_over(self) -> list[Verdict]:
        """What an earlier run was to reject and, killed, told nobody."""
        with RecordReader(self._records.folder) as reader:
            return [part.verdict for part in reader.untold()]

    def _announce(self, topics: Topics, messages: Messages) -> None:
        topics.announce(messages)
        if self._room is not None:
            self._room.release()

    def _say_goodbye(self, topics: Topics) -> None:
        self._oversight.heartbeat.set_phase(State.STOPPED)
        topics.close(self._oversight.heartbeat.message())


def _recorded(reader: RecordReader, first: int, last: int, limit: int) -> tuple[list[Verdict], int]:
    """What the query stage answers from: verdicts of the records, and the newest number there, which is read first."""
    newest = reader.newest()
    return [_as_told(part) for part in reader.between(first, min(last, newest), limit)], newest


def _as_told(part: StoredPart) -> Verdict:
    """The verdict; of a reject that was held, what has become of it since."""
    return part.verdict if part.told is None else replace(part.verdict, reject=part.told.reject)
