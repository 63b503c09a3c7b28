"""The drift watch beside the line: passed parts from the record stage in, health, metrics and log lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

import structlog
from prometheus_client import CollectorRegistry, Gauge

from inspectd.health.drift import LEAST_REFERENCE, DriftWatch, Reading
from inspectd.messages import Outcome, Record
from inspectd.sections import DriftSettings
from inspectd.wire.public import Json

log = structlog.get_logger(__name__)


class DriftMonitor:
    """Feeds a `DriftWatch` with what passed under the bundle that it knows; safe across threads.

    Restarted with the daemon, and with another bundle: it begins afresh from calibration.
    """

    def __init__(self, settings: DriftSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._statistic = Gauge(
            "inspectd_drift_ratio", "drift statistic over its limit; 1: drift", ["quantity"], registry=registry
        )
        self._drifted = Gauge(
            "inspectd_drift", "1 while a quantity of the passed parts has drifted", ["quantity"], registry=registry
        )
        self._lock = Lock()
        self._watch: DriftWatch | None = None
        self._bundle_hash = ""
        self._alarms = 0
        self._off = "" if settings.enabled else "drift.enabled is false"

    def adopt(self, bundle_hash: str, references: Mapping[str, Sequence[float]]) -> None:
        """Compare with this bundle's good parts from now on: quantity -> values of held-out parts, as stored there."""
        if not self._settings.enabled:
            return
        wanted = {name: values for name, values in references.items() if self._is_wanted(name)}
        watch = DriftWatch(wanted, self._settings.parts_per_false_alarm)
        off = "" if watch.quantities else self._why_none(references)
        with self._lock:
            self._watch = watch if watch.quantities else None
            self._bundle_hash, self._off = bundle_hash, off
            self._show()
        if off:
            log.warning("drift is not watched", why=off)

    def take(self, record: Record) -> None:
        """Take in a recorded part; it counts where it passed, was no challenge, and the adopted bundle judged."""
        verdict = record.verdict
        if verdict.outcome is not Outcome.PASS or verdict.challenge:
            return
        with self._lock:
            if self._watch is None or verdict.bundle_hash != self._bundle_hash:
                return
            changed = self._watch.observe(verdict.seq, quantities(record))
            self._alarms += sum(reading.since_seq is not None for reading in changed)
        for reading in changed:
            _log(verdict.seq, reading)

    def worries(self) -> list[str]:
        """One line for each quantity that has drifted."""
        return [
            f"{reading.quantity} of passed parts has drifted {reading.direction.value} since part {reading.since_seq}"
            for reading in self._readings()
            if reading.since_seq is not None
        ]

    def report(self) -> Json:
        """What the health message says of it; renews the metrics."""
        with self._lock:
            self._show()
            off, alarms = self._off, self._alarms
        return {
            "watched": not off,
            "why_not": off,
            "parts_per_false_alarm": self._settings.parts_per_false_alarm,
            "alarms": alarms,
            "quantities": {reading.quantity: _reading_json(reading) for reading in self._readings()},
        }

    def _readings(self) -> list[Reading]:
        with self._lock:
            return [] if self._watch is None else self._watch.readings()

    def _show(self) -> None:
        for reading in [] if self._watch is None else self._watch.readings():
            self._statistic.labels(reading.quantity).set(reading.statistic / reading.limit)
            self._drifted.labels(reading.quantity).set(reading.since_seq is not None)

    def _is_wanted(self, name: str) -> bool:
        """`pose` stands for pose_x_px and the others, `region_scores` for region_score.<name>."""
        group = "region_scores" if name.startswith("region_score.") else "pose" if name.startswith("pose_") else name
        return group in self._settings.quantities

    def _why_none(self, references: Mapping[str, Sequence[float]]) -> str:
        if not any(references.values()):
            return "the bundle does not say how its good parts were spread: calibrate again"
        return f"the bundle knows fewer than {LEAST_REFERENCE} good parts of each quantity: calibrate with more"


def quantities(record: Record) -> dict[str, float]:
    """The values of a judged part under the names that calibration stores them by; what is not known is left out."""
    verdict, pose = record.verdict, record.pose
    found = {"part_score": verdict.part_score, "brightness": record.brightness, "sharpness": record.sharpness}
    found |= {f"region_score.{name}": score for name, score in verdict.region_scores}
    if pose is not None:
        found |= {"pose_x_px": pose.x_px, "pose_y_px": pose.y_px}
        found |= {"pose_angle_deg": pose.angle_deg, "pose_scale": pose.scale}
    return {name: value for name, value in found.items() if value is not None}


def _reading_json(reading: Reading) -> Json:
    return {
        "statistic": float(f"{reading.statistic:.4g}"),
        "limit": reading.limit,
        "direction": reading.direction.value,
        "since_seq": reading.since_seq,
        "parts": reading.parts,
    }


def _log(seq: int, reading: Reading) -> None:
    if reading.since_seq is None:
        log.info("drift is over: passed parts are as calibration saw them", quantity=reading.quantity, seq=seq)
        return
    log.warning(
        "passed parts are not as calibration saw them; limits stay as they are: look at light, lens and position",
        quantity=reading.quantity,
        direction=reading.direction.value,
        seq=seq,
        parts=reading.parts,
    )
