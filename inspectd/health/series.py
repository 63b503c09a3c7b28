"""The Prometheus series behind the meters: names, texts, labels, buckets; docs/monitoring.md lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

BUCKETS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006),
    *(0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0),
)
RATIO_BUCKETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
RESTART_BUCKETS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
SINCE_TRIGGER = ("captured", "located", "scored", "decided", "told")


class Series:
    """Every series of one pipeline, in `registry`; what has fixed labels is there from the start, with zero.

    steps: names. counts: name -> what it counts. verdicts: (outcome, reason) pairs.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        steps: Iterable[str],
        counts: Mapping[str, str],
        verdicts: Iterable[tuple[str, str]],
    ) -> None:
        self._registry = registry
        step = self._histogram("step_seconds", "time of one step", BUCKETS_S, "step")
        self.steps = {name: step.labels(str(name)) for name in steps}
        text = "trigger to this point of the part's way; told: handed to the output"
        since = self._histogram("since_trigger_seconds", text, BUCKETS_S, "point")
        self.since = {point: since.labels(point) for point in SINCE_TRIGGER}
        text = "part score over its limit; above 1 is a reject"
        self.score_ratio = self._histogram("part_score_ratio", text, RATIO_BUCKETS)
        text = "an engine's abandonment to the next one's first part"
        self.restart_s = self._histogram("engine_restart_seconds", text, RESTART_BUCKETS_S)
        verdict = Counter("inspectd_verdicts", "verdicts", ["outcome", "reason"], registry=registry)
        self.verdicts = {pair: verdict.labels(*pair) for pair in verdicts}
        self.counts = {name: Counter(f"inspectd_{name}", text, registry=registry) for name, text in counts.items()}
        self.waiting = self._gauge("waiting", "parts that wait", "queue")
        self.state = self._gauge("state", "1 for the state that the daemon is in", "state")
        self.build = self._gauge("build_info", "always 1; what runs", "version", "station", "bundle", "engine")
        text = "a wish of the settings' section `process`: 1 in force, 0 refused by the system"
        self.process = self._gauge("process_setting", text, "setting")
        ProcessCollector(registry=registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"inspectd_{name}", text, labels, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"inspectd_{name}", text, labels, registry=self._registry)
