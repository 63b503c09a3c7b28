"""From a station's settings to the rule that its reject signals follow."""

from __future__ import annotations

from collections.abc import Sequence

from inspectd.encoder import ByEncoder
from inspectd.messages import Verdict
from inspectd.sections import TrackingSettings
from inspectd.tracking import ByDelay, Course, Tracker

NS_PER_MS = 1_000_000


def make_tracker(settings: TrackingSettings, left_over: Sequence[Verdict]) -> Tracker:
    """The tracker that the settings describe; one that lets every verdict through where nothing is tracked.

    left_over: verdicts whose reject an earlier run held and never told.
    """
    lead_ns = round(settings.lead_ms * NS_PER_MS)
    return Tracker(_course(settings), lead_ns=lead_ns, hold=settings.send == "at_window", left_over=left_over)


def _course(settings: TrackingSettings) -> Course | None:
    """How parts travel; the settings hold what their kind of tracking needs."""
    if settings.delay_ms is not None and settings.window_ms is not None:
        return ByDelay(delay_ns=round(settings.delay_ms * NS_PER_MS), window_ns=round(settings.window_ms * NS_PER_MS))
    if settings.distance_counts is not None and settings.window_counts is not None:
        return ByEncoder(
            distance_counts=settings.distance_counts,
            window_counts=settings.window_counts,
            modulus=settings.modulus,
            sign=1 if settings.direction == "up" else -1,
        )
    return None
