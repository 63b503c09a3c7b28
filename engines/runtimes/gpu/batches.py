"""Batches: several views share one engine, and a part that is alone waits for company no longer than is stated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Condition

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineFault, EngineTimeout
from engines.runtimes import Outputs
from engines.runtimes.gpu.slots import GpuSlot


class Batcher:
    """Slots for single parts over slots for batches; each part's slot has one owner, in a thread of its own or not.

    A batch is begun by the first part that is started. It is sent when it is full, or when its first part has waited
    `wait_s`, by whoever waits for one of its parts: no thread stands beside. What is started while a batch is on the
    GPU goes with the next one.
    """

    def __init__(self, gpu_slots: Sequence[GpuSlot], wait_s: float) -> None:
        batches = [_Batch(slot, wait_s) for slot in gpu_slots]
        self._slots = tuple(BatchSlot(batch, place) for batch in batches for place in range(batch.size))

    @property
    def slots(self) -> Sequence[BatchSlot]:
        """One per part, those of one batch side by side."""
        return self._slots


class BatchSlot:
    """One part's place in a batch."""

    def __init__(self, batch: _Batch, place: int) -> None:
        self._batch, self._place = batch, place
        self._started = False

    @property
    def input(self) -> NDArray[np.uint8]:
        """The (H, W, 3) uint8 RGB page-locked buffer that the batch sends."""
        return self._batch.input(self._place)

    def start(self) -> None:
        """Join the next batch; the last to join sends it. Raises EngineFault, also while the last part still runs."""
        self._batch.join(self._place)
        self._started = True

    def wait(self, timeout_s: float) -> Outputs:
        """Send the batch when its time has come, and block until the answer is there.

        Raises EngineFault, EngineTimeout.
        """
        if not self._started:
            raise EngineFault("the slot was not started")
        self._started = False
        return self._batch.answer(self._place, timeout_s)


class _Batch:
    """The places of one batch: each idle, waiting for company, or on the GPU."""

    def __init__(self, slot: GpuSlot, wait_s: float) -> None:
        self._slot, self._wait_s = slot, wait_s
        self._changed = Condition()
        self._waiting: set[int] = set()
        self._on_gpu: set[int] = set()
        self._faults: dict[int, EngineFault] = {}
        self._answers = [_own(outputs) for outputs in slot.answers()]
        self._first_s = 0.0
        self._is_watched = False

    @property
    def size(self) -> int:
        """Parts that fit."""
        return self._slot.batch

    def input(self, place: int) -> NDArray[np.uint8]:
        """The buffer of one place."""
        view: NDArray[np.uint8] = self._slot.inputs[place]
        return view

    def join(self, place: int) -> None:
        """Add a part to the next batch. Raises EngineFault while the same place's last part is not answered."""
        with self._changed:
            if place in self._waiting | self._on_gpu:
                raise EngineFault("the inference could not be started: the one before still runs")
            self._faults.pop(place, None)
            if not self._waiting:
                self._first_s = time.monotonic()
            self._waiting.add(place)
            if len(self._waiting) == self.size and not self._on_gpu:
                self._send()
            self._changed.notify_all()

    def answer(self, place: int, timeout_s: float) -> Outputs:
        """The answer of one place, in memory of its own. Raises EngineFault, EngineTimeout."""
        give_up_s = time.monotonic() + timeout_s
        while not self._is_answered(place, give_up_s):
            self._watch(place, give_up_s)
        fault = self._faults.pop(place, None)
        if fault is not None:
            raise fault
        outputs, score = self._answers[place]
        return Outputs(float(score[0]), outputs.region_scores, outputs.anomaly_map, outputs.reconstruction)

    def _is_answered(self, place: int, give_up_s: float) -> bool:
        """Wait until the place is answered (True), or until this thread is to look after the GPU (False)."""
        with self._changed:
            while place in self._waiting | self._on_gpu:
                now_s = time.monotonic()
                due_s = self._first_s + self._wait_s
                if place in self._waiting and not self._on_gpu and now_s >= due_s:
                    self._send()
                elif self._on_gpu and not self._is_watched:
                    self._is_watched = True
                    return False
                elif now_s >= give_up_s:
                    self._give_up(place)
                else:
                    wake_s = give_up_s if self._on_gpu else min(due_s, give_up_s)
                    self._changed.wait(wake_s - now_s)
            return True

    def _watch(self, place: int, give_up_s: float) -> None:
        """Look after the GPU, for all who wait, until the batch has ended or this place's time is over."""
        fault: EngineFault | None = None
        has_ended = True
        try:
            has_ended = self._slot.finished(max(0.0, give_up_s - time.monotonic()))
        except EngineFault as raised:
            fault = raised
        with self._changed:
            self._is_watched = False
            if has_ended:
                self._end(fault)
            elif place in self._on_gpu:
                self._give_up(place)
            self._changed.notify_all()

    def _send(self) -> None:
        """Start the batch; a failure is every part's of it."""
        self._on_gpu, self._waiting = self._waiting, set()
        try:
            self._slot.start()
        except EngineFault as fault:
            self._end(fault)
        self._changed.notify_all()

    def _end(self, fault: EngineFault | None) -> None:
        """Every place on the GPU has its answer, or the fault."""
        answers = self._slot.answers()
        for place in self._on_gpu:
            if fault is None:
                _copy(answers[place], self._answers[place])
            else:
                self._faults[place] = fault
        self._on_gpu = set()

    def _give_up(self, place: int) -> None:
        """This place's time is over; the others' is not."""
        self._waiting.discard(place)
        self._on_gpu.discard(place)
        self._faults[place] = EngineTimeout("the inference did not end in time")


_OwnAnswer = tuple[Outputs, NDArray[np.float32]]


def _own(outputs: Outputs) -> _OwnAnswer:
    """Memory for one place's answers: the batch's own is written again while they are still read."""
    reconstruction = None if outputs.reconstruction is None else outputs.reconstruction.copy()
    copied = Outputs(0.0, outputs.region_scores.copy(), outputs.anomaly_map.copy(), reconstruction)
    return copied, np.zeros(1, np.float32)


def _copy(outputs: Outputs, own: _OwnAnswer) -> None:
    kept, score = own
    score[0] = outputs.part_score
    np.copyto(kept.region_scores, outputs.region_scores)
    np.copyto(kept.anomaly_map, outputs.anomaly_map)
    if kept.reconstruction is not None and outputs.reconstruction is not None:
        np.copyto(kept.reconstruction, outputs.reconstruction)
