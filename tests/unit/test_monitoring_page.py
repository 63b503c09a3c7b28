"""/metrics as Prometheus reads it, against docs/monitoring.md: names, units, labels, and that none is undocumented."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from line_values import MS, verdict
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from inspectd.health.drift_monitor import DriftMonitor
from inspectd.health.meters import _MEANINGS, Count, Meters, Step
from inspectd.health.storage_watch import StorageWatch
from inspectd.messages import Outcome
from inspectd.sections import DriftSettings, RecordSettings

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")


def families(meters: Meters) -> dict[str, Metric]:
    """What Prometheus' own parser makes of the page, but for the times at which its series began."""
    found = text_string_to_metric_families(meters.prometheus().decode())
    return {family.name: family for family in found if not family.name.endswith("_created")}


def value(meters: Meters, name: str, **labels: str) -> float:
    """One sample."""
    (found,) = [
        sample.value
        for family in families(meters).values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


def test_every_metric_is_documented() -> None:
    """Each name that the daemon serves stands in docs/monitoring.md, counters with their _total."""
    meters = Meters()
    DriftMonitor(DriftSettings(), meters.registry)
    StorageWatch(RecordSettings(), meters.registry)
    names = {
        f"{name}_total" if family.type == "counter" else name
        for name, family in families(meters).items()
        if name.startswith("inspectd_")
    }
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []


def test_every_documented_metric_exists() -> None:
    """docs/monitoring.md names nothing that is not served, also in its PromQL and alerts."""
    meters = Meters()
    DriftMonitor(DriftSettings(), meters.registry)
    StorageWatch(RecordSettings(), meters.registry)
    served = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in families(meters)}
    named = {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:inspectd|process)_\w+", PAGE)
    }
    assert sorted(named - served) == []


def test_names_follow_the_conventions() -> None:
    """Lower case, base units, a text for each; histograms of time end with _seconds."""
    for name, family in families(Meters()).items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not re.search(r"_(ms|us|ns|mib)$", name)
        assert family.documentation
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_ratio"))


@pytest.mark.parametrize("count", Count)
def test_each_count_is_a_counter_with_a_meaning(count: Count) -> None:
    """None is without a text of its own, and each counts for itself."""
    meters = Meters()
    meters.count(count, 3)
    assert count in _MEANINGS
    assert value(meters, f"inspectd_{count.value}_total") == 3


def test_a_verdict_is_followed_from_trigger_to_output() -> None:
    """Outcome and reason, each point of its way, its score against the limit, and whether it left in time."""
    meters = Meters()
    meters.verdict(verdict(1), told_ns=17 * MS)  # triggered at 10, captured at 11, decided at 16 ms
    meters.verdict(replace(verdict(2, Outcome.INVALID), captured_ns=0), told_ns=61 * MS)
    assert value(meters, "inspectd_verdicts_total", outcome="PASS", reason="within_limits") == 1
    assert value(meters, "inspectd_verdicts_total", outcome="INVALID", reason="late") == 1
    for point, seconds in {
        "captured": 0.001,
        "located": 0.002,
        "scored": 0.005,
        "decided": 0.012,
        "told": 0.058,
    }.items():
        assert value(meters, "inspectd_since_trigger_seconds_sum", point=point) == pytest.approx(seconds)
    assert value(meters, "inspectd_step_seconds_count", step=Step.CAPTURE.value) == 1
    assert value(meters, "inspectd_part_score_ratio_sum") == pytest.approx(0.5)
    assert value(meters, "inspectd_deadlines_missed_total") == 1


def test_what_runs_and_how_stands_in_gauges() -> None:
    """One build at a time, one state at a time, each real-time wish."""
    meters = Meters()
    for bundle in ("aa", "bb"):
        meters.describe(version="1", station="smdc", bundle=bundle, engine="fake")
    meters.set_state("running", ("running", "stalled"))
    meters.set_process({"lock_memory": False})
    assert [sample.labels["bundle"] for sample in families(meters)["inspectd_build_info"].samples] == ["bb"]
    assert value(meters, "inspectd_state", state="running") == 1
    assert value(meters, "inspectd_state", state="stalled") == 0
    assert value(meters, "inspectd_process_setting", setting="lock_memory") == 0


def test_the_alert_rules_can_be_read() -> None:
    """The example is YAML of Prometheus' shape."""
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]
    rules = yaml.safe_load(text)["groups"][0]["rules"]
    assert all(rule["alert"].startswith("Inspectd") and rule["expr"] for rule in rules)
