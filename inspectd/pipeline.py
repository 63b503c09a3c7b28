"""The whole machine as one table, and its life cycle: start, run, stop. With `stage_bodies`, it alone knows the stages.

A part enters at the top of the table, the gate tells its verdict by its deadline, and the rows below keep its record.
Each row is a thread; what it makes there is in `stage_bodies`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import structlog
import zmq

from inspectd.camera import Camera
from inspectd.config import Station
from inspectd.engine_guard import Engine, LocatePart
from inspectd.errors import InspectdError
from inspectd.health.heartbeat import State
from inspectd.health.meters import Count, Meters, Stage
from inspectd.oversight import Oversight
from inspectd.records.opening import Records
from inspectd.stage_bodies import FRAMES, GATE, IMAGES, PARTS, QUERIES, RESULTS, ROWS, TRIGGERS, StageBodies
from inspectd.wire.door import Door
from inspectd.wire.sockets import Context
from inspectd.worker import Worker


@dataclass(frozen=True, slots=True)
class Row:
    """One stage, which is one thread: what runs there, where its messages come from, how many may wait there, and
    where its own go.

    patience_s: longest time between two rounds of its loop, beside what the station's
    settings allow (`_patience`).
    """

    stage: Stage
    body: Callable[[StageBodies, Event, Callable[[], None]], None]
    reads: str
    bound: int
    writes: tuple[str, ...]
    patience_s: float


TABLE = (
    #   stage, body, reads, bound, writes, patience_s
    Row(Stage.TRIGGER, StageBodies.take_triggers, TRIGGERS, 1_000, (PARTS, GATE), 2.0),  # names and numbers each part
    Row(Stage.ACQUIRE, StageBodies.acquire, PARTS, 1_000, (FRAMES, GATE), 2.0),  # ........ camera -> frame
    Row(Stage.INSPECT, StageBodies.inspect, FRAMES, 8, (GATE,), 2.0),  # .................. frame -> part -> scores
    Row(Stage.GATE, StageBodies.judge, GATE, 10_000, (RESULTS, ROWS, IMAGES), 2.0),  # .... one verdict per trigger
    Row(Stage.RECORD, StageBodies.record, ROWS, 10_000, (), 10.0),  # ..................... records.db
    Row(Stage.IMAGES, StageBodies.keep_images, IMAGES, 8, (ROWS,), 10.0),  # .............. images/
    Row(Stage.QUERY, StageBodies.answer, QUERIES, 100, (QUERIES,), 10.0),  # .............. answers from the records
)
BOUNDS = {row.reads: row.bound for row in TABLE}
CAMERA_OPENS_S = 60.0
STAGE_STARTS_S = 10.0
STAGE_ENDS_S = 5.0
POLL_S = 0.1
log = structlog.get_logger(__name__)


class StageFailed(InspectdError):
    """A stage ended with an error, and the pipeline with it; the exit code is that of the error."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(f"stage {stage} failed: {error}")
        self.exit_code = getattr(error, "exit_code", InspectdError.exit_code)


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
        self._station = station
        keep = station.records
        self._records = Records(
            keep.folder / station.station, sync_s=keep.sync_ms / 1e3, set_aside=keep.damaged == "set_aside"
        )
        self.meters = Meters()
        self._oversight = Oversight(
            station,
            engine=engine,
            load=load,
            records=self._records,
            meters=self.meters,
            patience_s={row.stage: row.patience_s + _patience(station, row.stage) for row in TABLE},
        )
        self.heartbeat = self._oversight.heartbeat
        self._context: Context = zmq.Context()
        self._go = Event()
        self.hangs = True  # until a clean end: something that the process's end must not wait for
        self._something_ended = Event()
        refused = partial(self.meters.count, Count.CLIENTS_REFUSED)
        self._door = Door(
            self._context,
            station.endpoints(),
            keys=station.key_folder(),
            refused=refused,
            closed=partial(self.meters.count, Count.CONNECTIONS_CLOSED),
        )
        bodies = StageBodies(
            station,
            engine=engine,
            locate=locate,
            camera=camera,
            max_parts=max_parts,
            context=self._context,
            bounds=BOUNDS,
            door=self._door,
            records=self._records,
            meters=self.meters,
            oversight=self._oversight,
            go=self._go,
        )
        self._workers = {
            row.stage: Worker(row.stage.value, partial(row.body, bodies), self._something_ended.set) for row in TABLE
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
            self._oversight.check()
            each_turn()
        for worker in [*self._door.workers, *self._workers.values()]:
            if worker.error is not None:
                raise StageFailed(worker.name, worker.error) from worker.error

    def exchange_bundle(self, bundle: Path | None) -> None:
        """Load the bundle in a folder (None: the active one), and judge by it as soon as it may; does not block."""
        self._oversight.guard.exchange(bundle)

    @property
    def engines_freed(self) -> int:
        """How many engines have been freed so far: each leaves memory to be given back."""
        return self._oversight.guard.freed

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
            self.hangs = not self._oversight.guard.close()
        return clean


def _patience(station: Station, stage: Stage) -> float:
    """How much longer than its own time a stage may take: the camera's timeout, the engine's."""
    if stage is Stage.ACQUIRE:
        return station.trigger.frame_timeout_ms / 1e3
    return station.line.deadline_ms / 1e3 + station.supervision.hang_s if stage is Stage.INSPECT else 0.0
