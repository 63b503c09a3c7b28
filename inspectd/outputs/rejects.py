"""From a station's settings to the rule that its reject signals follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from inspectd.encoder import ByEncoder
from inspectd.messages import Verdict
from inspectd.sections import TrackingSettings
from inspectd.tracking import ByDelay, Course, Tracker
from inspectd.wire.public import SILENT_S

NS_PER_MS = 1_000_000


class Settling:
    """Says whether clients that lost their connection to an earlier run have had the time to come back. One thread.

    begun: true from the moment on at which parts are taken; SILENT_S later whoever is alive is connected again.
    """

    def __init__(self, begun: Callable[[], bool]) -> None:
        self._begun = begun
        self._settled_s: float | None = None

    def __call__(self) -> bool:
        """To be asked again and again: the time counts from the first call after the beginning."""
        if self._settled_s is None and self._begun():
            self._settled_s = time.monotonic() + SILENT_S
        return self._settled_s is not None and time.monotonic() >= self._settled_s


def make_tracker(settings: TrackingSettings, left_over: Sequence[Verdict], settled: Callable[[], bool]) -> Tracker:
    """The tracker that the settings describe; one that lets every verdict through where nothing is tracked.

    left_over: verdicts whose reject an earlier run held and never told; they are reported once `settled` is true.
    """
    return Tracker(
        _course(settings),
        lead_ns=round(settings.lead_ms * NS_PER_MS),
        hold=settings.send == "at_window",
        left_over=left_over,
        settled=settled,
    )


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
