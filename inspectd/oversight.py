"""Who looks on while parts are judged: the engine's guard, drift, challenges, the records' room and the heartbeat."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path

from inspectd.challenge import ChallengeDesk, ChallengeReminder
from inspectd.config import Station
from inspectd.engine_guard import Engine, EngineGuard
from inspectd.health.drift_monitor import DriftMonitor
from inspectd.health.heartbeat import Heartbeat
from inspectd.health.meters import Meters, Stage
from inspectd.health.storage_watch import StorageWatch
from inspectd.messages import Record
from inspectd.records.ledger import Note
from inspectd.records.opening import Records


class Oversight:
    """One station's watchers, each safe across threads; all of them hear of another bundle before it judges.

    engine: the one that judges first. load: the engine of the bundle in a folder, None: the active one.
    patience_s: how long each stage's loop may take at most.
    """

    def __init__(
        self,
        station: Station,
        *,
        engine: Engine,
        load: Callable[[Path | None], Engine],
        records: Records,
        meters: Meters,
        patience_s: Mapping[Stage, float],
    ) -> None:
        self._station, self._meters = station.station, meters
        self._drift = DriftMonitor(station.drift, meters.registry)
        self._drift.adopt(engine.bundle_hash, engine.reference)
        self.guard = EngineGuard(engine, load=load, settings=station.supervision, meters=meters, changed=self._adopt)
        self.challenges = ChallengeDesk(lambda: records.sequence.upcoming, engine.bundle_hash)
        self._reminder = ChallengeReminder(records.folder, engine.bundle_hash, station.challenge.every_hours)
        self.storage = StorageWatch(station.records, meters.registry)
        self.heartbeat = Heartbeat(
            meters,
            station=station.station,
            bundle_hash=engine.bundle_hash,
            engine=str(engine),
            patience_s=patience_s,
            concerns={
                "drift": self._drift,
                "challenge": self._reminder,
                "supervision": self.guard,
                "records": self.storage,
            },
            newest_seq=lambda: records.sequence.newest,
            run=records.run,
        )
        self._describe(engine)

    def check(self) -> None:
        """The main thread's turn: see whether there is an engine (else EngineLost), and what is due; reads the disk."""
        self.guard.check()
        self._reminder.refresh()

    def take(self, record: Record) -> list[Note]:
        """Look at a part that is recorded, in the record stage; returns what is to be written of it."""
        self._drift.take(record)
        return self.challenges.take(record)

    def _adopt(self, engine: Engine) -> None:
        """Another bundle is about to judge."""
        self._drift.adopt(engine.bundle_hash, engine.reference)
        self.challenges.judged_by(engine.bundle_hash)
        self._reminder.judged_by(engine.bundle_hash)
        self.heartbeat.set_engine(engine.bundle_hash, str(engine))
        self._describe(engine)

    def _describe(self, engine: Engine) -> None:
        info = engine.runtime.info
        self._meters.describe(
            version=importlib.metadata.version("inspectd"),
            station=self._station,
            bundle=engine.bundle_hash[:16],
            engine=f"{info.runtime} {info.version} {info.precision}",
        )
