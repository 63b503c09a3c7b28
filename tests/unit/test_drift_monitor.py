"""What the drift watch takes from the line's records, and what it says on health, metrics and log."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from line_values import BUNDLE_HASH, verdict
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from inspectd.health.drift_monitor import DriftMonitor, quantities
from inspectd.messages import Outcome, Pose, Record
from inspectd.sections import DriftSettings
from inspectd.wire.public import schema

DARK_FROM = 200


def values(count: int, seed: int) -> NDArray[np.float64]:
    """Brightness of good parts."""
    return np.random.default_rng([seed, count]).normal(100, 5, count)


def record(seq: int, brightness: float, outcome: Outcome = Outcome.PASS) -> Record:
    """A part as the gate records it."""
    pose = Pose(x_px=320.0, y_px=240.0, angle_deg=1.0, scale=1.1)
    return Record(verdict=verdict(seq, outcome), pose=pose, brightness=brightness, sharpness=900.0)


def monitor(registry: CollectorRegistry | None = None, **settings: object) -> DriftMonitor:
    """A monitor that knows the brightness of eighty good parts."""
    made = DriftMonitor(DriftSettings.model_validate(settings), registry or CollectorRegistry())
    made.adopt(BUNDLE_HASH, {"brightness": tuple(values(80, 1))})
    return made


def test_the_quantities_of_a_record_have_the_names_that_calibration_stores() -> None:
    """Score, regions, looks and pose; what is not known is left out."""
    found = quantities(record(1, 99.0))
    assert found["part_score"] == 0.25
    assert found["region_score.body"] == 0.25
    assert (found["brightness"], found["sharpness"]) == (99.0, 900.0)
    assert (found["pose_x_px"], found["pose_y_px"], found["pose_angle_deg"], found["pose_scale"]) == (320, 240, 1, 1.1)
    assert set(quantities(Record(verdict=verdict(1, Outcome.INVALID)))) == set()


def test_a_darker_line_degrades_health_and_is_logged_once_until_it_is_over() -> None:
    """Announced with direction and part, in words and numbers that the published schema knows; ends by itself."""
    registry = CollectorRegistry()
    watch = monitor(registry)
    with capture_logs() as logs:
        for seq, value in enumerate(values(400, 2)):
            watch.take(record(seq, value - 20 if seq >= DARK_FROM else value))
        (worry,) = watch.worries()
        report = watch.report()
    since = report["quantities"]["brightness"]["since_seq"]
    assert DARK_FROM <= since < DARK_FROM + 40
    assert worry == f"brightness of passed parts has drifted down since part {since}"
    assert [(entry["log_level"], entry["quantity"]) for entry in logs] == [("warning", "brightness")]
    assert report["alarms"] == 1
    jsonschema.validate(report, schema("health")["properties"]["drift"])
    metrics = generate_latest(registry).decode()
    assert 'inspectd_drift{quantity="brightness"} 1.0' in metrics
    assert 'inspectd_drift_ratio{quantity="brightness"} 1.0' in metrics
    for seq, value in enumerate(values(200, 3), start=400):
        watch.take(record(seq, value))
    assert watch.worries() == []
    assert watch.report()["alarms"] == 1


def test_only_passed_parts_of_its_bundle_count() -> None:
    """Rejected and invalid parts are no measure of good ones, nor those of a challenge or of another bundle."""
    watch = monitor()
    for seq in range(300):
        watch.take(record(seq, 10.0, Outcome.REJECT))
        watch.take(record(seq, 10.0, Outcome.INVALID))
        other = record(seq, 10.0)
        watch.take(replace(other, verdict=replace(other.verdict, bundle_hash="cd" * 32)))
        watch.take(replace(other, verdict=replace(other.verdict, challenge="crack")))
    assert watch.worries() == []
    assert watch.report()["quantities"]["brightness"]["parts"] == 0


def test_another_bundle_begins_afresh() -> None:
    """What another calibration knew is what the line is compared with from then on."""
    watch = monitor()
    for seq in range(100):
        watch.take(record(seq, 10.0))
    assert watch.worries()
    watch.adopt("cd" * 32, {"brightness": tuple(values(80, 1) - 90)})
    assert watch.worries() == []


@pytest.mark.parametrize(
    ("references", "why"),
    [({"part_score": ()}, "calibrate again"), ({}, "calibrate again"), ({"part_score": (0.1,) * 5}, "fewer than 16")],
)
def test_a_bundle_that_does_not_know_its_good_parts_is_run_without(
    references: dict[str, tuple[float, ...]], why: str
) -> None:
    """Off, said in the log and in the health message; that alone does not degrade the station."""
    watch = DriftMonitor(DriftSettings(), CollectorRegistry())
    with capture_logs() as logs:
        watch.adopt(BUNDLE_HASH, references)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    watch.take(record(1, 10.0))
    report = watch.report()
    assert not report["watched"]
    assert why in report["why_not"]
    assert watch.worries() == []
    jsonschema.validate(report, schema("health")["properties"]["drift"])


def test_settings_choose_what_is_watched() -> None:
    """Quantities by group, and nothing at all where it is off."""
    everything = {name: tuple(values(40, 1)) for name in ("part_score", "region_score.body", "brightness", "pose_x_px")}
    chosen = DriftMonitor(DriftSettings(quantities=("region_scores", "pose")), CollectorRegistry())
    chosen.adopt(BUNDLE_HASH, everything)
    assert set(chosen.report()["quantities"]) == {"region_score.body", "pose_x_px"}
    off = DriftMonitor(DriftSettings(enabled=False), CollectorRegistry())
    off.adopt(BUNDLE_HASH, everything)
    assert not off.report()["watched"]
    assert off.report()["why_not"] == "drift.enabled is false"
