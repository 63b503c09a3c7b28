"""CUDA graphs: one slot's copies and launches recorded once, then queued with one call per part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engines.errors import EngineFault
from engines.runtimes.gpu.device import GpuDevice
from engines.runtimes.gpu.surface import GraphDriver, Stream

NO_FLAGS: Final = 0


class RecordedWork:
    """What a stream was given, ready to be queued again."""

    def __init__(self, graphs: GraphDriver, device: GpuDevice, instance: object, stream: object) -> None:
        self._graphs, self._instance, self._stream = graphs, instance, stream
        device.free_later(self._free)

    def enqueue(self) -> None:
        """Queue all of it on its stream. Raises EngineFault."""
        (result,) = self._graphs.cuGraphLaunch(self._instance, self._stream)
        if result != self._graphs.CUresult.CUDA_SUCCESS:
            raise EngineFault(f"the inference could not be started: cuGraphLaunch: {result.name}")

    def _free(self) -> None:
        self._graphs.cuGraphExecDestroy(self._instance)


def record(graphs: GraphDriver, device: GpuDevice, stream: Stream, work: Callable[[], None]) -> RecordedWork | None:
    """Record what `work` queues on `stream`, without running it; the context must be current.

    None where the driver, or a layer of the plan, cannot be recorded: then `work` is queued call by call. Only calls
    of this thread are held to what a recording allows: another engine may be loading meanwhile.
    """
    handle = graphs.CUstream(stream.handle)
    (begun,) = graphs.cuStreamBeginCapture(handle, graphs.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    if begun != graphs.CUresult.CUDA_SUCCESS:
        return None
    worked = True
    try:
        work()
    except EngineFault:
        worked = False
    finally:
        ended, graph = graphs.cuStreamEndCapture(handle)  # in any case: else the stream stays unusable
    recorded = worked and ended == graphs.CUresult.CUDA_SUCCESS
    instance = _instance(graphs, graph) if recorded else None
    if ended == graphs.CUresult.CUDA_SUCCESS:
        graphs.cuGraphDestroy(graph)
    return None if instance is None else RecordedWork(graphs, device, instance, handle)


def _instance(graphs: GraphDriver, graph: object) -> Any | None:
    made, instance = graphs.cuGraphInstantiate(graph, NO_FLAGS)
    return instance if made == graphs.CUresult.CUDA_SUCCESS else None
