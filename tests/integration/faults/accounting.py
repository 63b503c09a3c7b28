"""Triggers = PASS + REJECT + INVALID, exactly: in the metrics, on the topic and in the records. Not a test module."""

from __future__ import annotations

from collections import Counter

from faulty_line import FaultyLine, until

OUTCOMES = ("PASS", "REJECT", "INVALID")


def in_metrics(line: FaultyLine, triggers: int) -> None:
    """While it runs: as many triggers as were sent, as many verdicts, none late, none answered twice."""
    until(lambda: _verdicts(line.metrics()) == triggers, f"{triggers} verdicts in the metrics")
    metrics = line.metrics()
    assert metrics["inspectd_triggers_total"] == triggers
    assert metrics["inspectd_since_trigger_seconds_count,told"] == triggers
    assert metrics["inspectd_rows_lost_total"] == 0
    assert sum(line.status()["verdicts"].values()) == triggers


def on_topic_and_in_records(line: FaultyLine, triggers: int, *, missing: int = 0) -> None:
    """After the end: each part announced once and recorded once, with the same verdict under the same number.

    missing: how many announced parts the records may lack, where the fault was theirs.
    """
    announced = {
        result["seq"]: (result["part_id"], result["verdict"], result["reason"]) for result in line.heard.results
    }
    assert len(line.heard.results) == len(announced) == triggers
    recorded = [part.verdict for part in line.records()]
    told = {verdict.seq: (verdict.part_id, verdict.outcome.value, verdict.reason.value) for verdict in recorded}
    assert len(told) == len(recorded)
    assert told.items() <= announced.items()
    assert len(announced) - len(told) <= missing
    if not missing:
        counts = Counter(verdict.outcome.value for verdict in recorded)
        assert sum(counts[outcome] for outcome in OUTCOMES) == triggers
    assert all(verdict.outcome.value != "PASS" or verdict.part_score is not None for verdict in recorded)


def balance(line: FaultyLine, triggers: int) -> int:
    """End the daemon with SIGTERM and check all three; returns its exit code."""
    in_metrics(line, triggers)
    code = line.end()
    on_topic_and_in_records(line, triggers)
    return code


def _verdicts(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("inspectd_verdicts_total"))
