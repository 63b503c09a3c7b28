"""A runtime that remembers what it said of each labelled part: what the pictures of a row are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.dataset import GOOD, Sample
from calibration.evaluate import Frame, Prepared
from engines.artifact import ThresholdSet
from engines.runtimes import Outputs, Runtime, RuntimeInfo, Slot
from engines.settings import RegionSettings

Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Said:
    """One inspected part: its score and region scores (R,), and whether any limit was passed."""

    sample: Sample
    part_score: float
    region_scores: NDArray[np.float32]
    rejected: bool

    @property
    def good(self) -> bool:
        """Its label says so."""
        return self.sample.label == GOOD


class WatchedRuntime:
    """Hands everything on to `inner`, and notes the scores. Implements the Runtime protocol with its first slot.

    Parts are told apart by `prepare`, which whoever evaluates calls once for each sample, in order, before the slot.
    """

    def __init__(
        self,
        inner: Runtime,
        samples: Sequence[Sample],
        prepare: Callable[[Frame], Prepared],
        thresholds: ThresholdSet,
        regions: Sequence[RegionSettings],
    ) -> None:
        self._inner, self._samples, self._prepare = inner, samples, prepare
        self._part_limit = thresholds.part.value
        self._region_limits = np.array([thresholds.regions[region.name].value for region in regions])
        self._prepared = 0
        self.said: list[Said] = []
        self.slots: Sequence[Slot] = (_WatchedSlot(inner.slots[0], self._note),)

    @property
    def info(self) -> RuntimeInfo:
        """The inner runtime's."""
        return self._inner.info

    def close(self) -> None:
        """Close the inner runtime."""
        self._inner.close()

    def prepare(self, frame: Frame) -> Prepared:
        """What to give to `evaluate` beside this runtime. Raises Uninspectable as the inner one does."""
        self._prepared += 1
        return self._prepare(frame)

    def _note(self, outputs: Outputs) -> None:
        sample = self._samples[self._prepared - 1]
        scores = outputs.region_scores.copy()  # the engine's buffer is written again
        rejected = outputs.part_score > self._part_limit or bool((scores > self._region_limits).any())
        if np.isfinite(outputs.part_score):
            self.said.append(Said(sample, outputs.part_score, scores, rejected))


class _WatchedSlot:
    def __init__(self, inner: Slot, note: Callable[[Outputs], None]) -> None:
        self._inner, self._note = inner, note

    @property
    def input(self) -> Images:
        return self._inner.input

    def start(self) -> None:
        self._inner.start()

    def wait(self, timeout_s: float) -> Outputs:
        outputs = self._inner.wait(timeout_s)
        self._note(outputs)
        return outputs
