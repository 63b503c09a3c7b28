"""One inference in flight: copy in, plan, Patch_GMSD, one copy out, on a stream of its own; waited for by its event."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineFault, EngineTimeout
from engines.runtimes import Outputs
from engines.runtimes.gpu.buffers import SlotBuffers
from engines.runtimes.gpu.device import CLOSED, GpuDevice
from engines.runtimes.gpu.graphs import RecordedWork, record
from engines.runtimes.gpu.planned import PlanContext
from engines.runtimes.gpu.ranges import Ranges
from engines.runtimes.gpu.stage import ReadyLaunch
from engines.runtimes.gpu.surface import CudaDriver, Event, GraphDriver, Stream

POLL_S: Final = 20e-6
"""Between two looks at the event: sleeping lets the other stages' threads run, and a blocking call has no time-out."""
_NOT_STARTED: Final = "the inference could not be started"


@dataclass(slots=True)
class SlotWork:
    """What a slot queues, in this order: its buffers' copy in, plan, launches, copy out. One slot's own, all of it."""

    stream: Stream
    done: Event
    buffers: SlotBuffers
    context: PlanContext
    launches: tuple[ReadyLaunch, ...]
    recorded: RecordedWork | None = None


class GpuSlot:
    """As many parts in flight as the plan takes at once, `batch`; one owner at a time.

    Everything it uses per part was allocated when it was made; it is freed with the device.
    """

    def __init__(self, driver: CudaDriver, device: GpuDevice, work: SlotWork, ranges: Ranges) -> None:
        self._driver, self._device, self._ranges = driver, device, ranges
        self._work: SlotWork | None = work
        self._batch = len(work.buffers.host_input)
        self._answers = tuple(_Answer(work.buffers, part) for part in range(self._batch))
        self._in_flight = self._started = False
        device.settle_first(work.stream.synchronize)
        device.free_later(self._free)

    @property
    def batch(self) -> int:
        """Parts in one inference."""
        return self._batch

    @property
    def inputs(self) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 RGB page-locked host memory that `start` sends. Raises EngineFault once closed."""
        return self._live().buffers.host_input

    @property
    def answer_bytes(self) -> int:
        """What one inference copies to the host."""
        return int(self._live().buffers.host_answer.nbytes)

    @property
    def input(self) -> NDArray[np.uint8]:
        """The first part's (H, W, 3) uint8 RGB of it. Raises EngineFault once closed."""
        first: NDArray[np.uint8] = self.inputs[0]
        return first

    def record(self, graphs: GraphDriver) -> bool:
        """Record the work as a CUDA graph and use it from now on; False where that cannot be. Raises EngineFault."""
        work = self._live()
        with self._device.current():
            work.recorded = record(graphs, self._device, work.stream, self._enqueue)
        return work.recorded is not None

    def start(self) -> None:
        """Queue the inference and return at once. Raises EngineFault, also while a timed-out one still runs."""
        work = self._live()
        with self._device.current(), self._device.faults(_NOT_STARTED), self._ranges("start"):
            if self._in_flight and not work.done.query():
                raise EngineFault(f"{_NOT_STARTED}: the one before still runs")
            self._in_flight = True
            if work.recorded is None:
                self._enqueue()
            else:
                work.recorded.enqueue()
            work.done.record(work.stream)
        self._started = True

    def wait(self, timeout_s: float) -> Outputs:
        """Block until the answer is there, and return the first part's.

        Raises EngineFault when the GPU failed or the slot was not started, EngineTimeout when it does not end within
        `timeout_s`: what was queued cannot be taken back, and the slot takes parts again after its end.
        """
        if not self._started:
            raise EngineFault("the slot was not started")
        self._started = False
        if not self.finished(timeout_s):
            raise EngineTimeout(f"the inference did not end within {timeout_s * 1000:.0f} ms")
        return self._answers[0].outputs()

    def finished(self, timeout_s: float) -> bool:
        """Block until what was started has ended, at most `timeout_s`; False where it has not. Raises EngineFault."""
        work = self._live()
        give_up_s = time.monotonic() + timeout_s
        with self._device.current(), self._device.faults("the inference failed"), self._ranges("wait"):
            while not work.done.query():
                if time.monotonic() >= give_up_s:
                    return False
                time.sleep(POLL_S)
        self._in_flight = False
        return True

    def timed(self, timeout_s: float) -> float:
        """Infer what lies in `inputs`: milliseconds on the device, by CUDA events, from copy in to copy out.

        For measurements: makes two events. Raises EngineFault, EngineTimeout.
        """
        work = self._live()
        with self._device.current(), self._device.faults("the inference cannot be timed"):
            begun, ended = (self._driver.Event(self._driver.event_flags.DEFAULT) for _ in range(2))
            begun.record(work.stream)
        self.start()
        with self._device.current(), self._device.faults("the inference cannot be timed"):
            ended.record(work.stream)
        self.wait(timeout_s)
        with self._device.current(), self._device.faults("the inference cannot be timed"):
            while not ended.query():
                time.sleep(POLL_S)
            milliseconds = float(ended.time_since(begun))
            del begun, ended  # while the context is current
        return milliseconds

    def answers(self) -> Sequence[Outputs]:
        """Every part's answer, once `finished` has said so."""
        return [answer.outputs() for answer in self._answers]

    def _live(self) -> SlotWork:
        if self._work is None:
            raise EngineFault(CLOSED)
        return self._work

    def _enqueue(self) -> None:
        """The work of one inference, in order. Raises EngineFault."""
        work = self._live()
        buffers, stream = work.buffers, work.stream
        with self._device.faults(_NOT_STARTED):
            self._driver.memcpy_htod_async(buffers.input_address, buffers.host_input, stream)
            work.context.enqueue(stream.handle)
            for launch in work.launches:
                launch.enqueue(stream)
            self._driver.memcpy_dtoh_async(buffers.host_answer, buffers.answer_address, stream)

    def _free(self) -> None:
        """Let go of stream and event, while the context is current; buffers and plan free themselves after it."""
        self._work, self._answers = None, ()


class _Answer:
    """Views of one part's answer in the slot's host memory."""

    def __init__(self, buffers: SlotBuffers, part: int) -> None:
        copied = buffers.copied()
        if "scores" in copied:
            scores = copied["scores"][part]
            self._part_score, self._region_scores = scores[:1], scores[1:]
        else:
            self._part_score, self._region_scores = copied["part_score"][part:][:1], copied["region_scores"][part]
        self._anomaly_map = copied["anomaly_map"][part]
        self._reconstruction = copied["reconstruction"][part] if "reconstruction" in copied else None

    def outputs(self) -> Outputs:
        """What is there now."""
        return Outputs(float(self._part_score[0]), self._region_scores, self._anomaly_map, self._reconstruction)
