"""The FAKE of cuda.bindings.driver: CUDA graphs over the fake driver's lazy streams. Not a test."""

from __future__ import annotations

from enum import Enum
from typing import Any

from fake_cuda_errors import CudaError


class CUresult(Enum):
    """cuda.bindings.driver.CUresult, as far as it is needed."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_LAUNCH_FAILED = 719


class CUstreamCaptureMode(Enum):
    """cuda.bindings.driver.CUstreamCaptureMode."""

    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class Graphs:
    """The module: each call returns a tuple that begins with a CUresult."""

    CUresult = CUresult
    CUstreamCaptureMode = CUstreamCaptureMode

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def CUstream(self, init_value: int) -> Any:  # noqa: N802
        """The stream of that handle."""
        return self._cuda.streams[init_value]

    def cuStreamBeginCapture(self, hStream: Any, mode: object) -> tuple[CUresult]:  # noqa: N802, N803
        """What is queued from here on is recorded."""
        if not self._cuda.can_record:
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        result = self._asked("cuStreamBeginCapture")
        if result is CUresult.CUDA_SUCCESS:
            hStream.recording = []
        return (result,)

    def cuStreamEndCapture(self, hStream: Any) -> tuple[CUresult, Any]:  # noqa: N802, N803
        """The recording."""
        recorded, hStream.recording = hStream.recording, None
        result = self._asked("cuStreamEndCapture")
        self._cuda.recordings += result is CUresult.CUDA_SUCCESS
        return result, recorded

    def cuGraphInstantiate(self, hGraph: Any, flags: int) -> tuple[CUresult, Any]:  # noqa: N802, N803
        """The recording, ready."""
        result = self._asked("cuGraphInstantiate")
        self._cuda.recordings += result is CUresult.CUDA_SUCCESS
        return result, list(hGraph)

    def cuGraphLaunch(self, hGraphExec: Any, hStream: Any) -> tuple[CUresult]:  # noqa: N802, N803
        """Queue all of it."""
        result = self._asked("cuGraphLaunch")
        if result is CUresult.CUDA_SUCCESS:
            hStream.queue.extend(hGraphExec)
        return (result,)

    def cuGraphExecDestroy(self, hGraphExec: Any) -> tuple[CUresult]:  # noqa: N802, N803
        """Free the instance."""
        return self._gone("cuGraphExecDestroy")

    def cuGraphDestroy(self, hGraph: Any) -> tuple[CUresult]:  # noqa: N802, N803
        """Free the recording."""
        return self._gone("cuGraphDestroy")

    def _asked(self, name: str) -> CUresult:
        try:
            self._cuda.call(name)
        except CudaError:
            return CUresult.CUDA_ERROR_LAUNCH_FAILED
        return CUresult.CUDA_SUCCESS

    def _gone(self, name: str) -> tuple[CUresult]:
        self._cuda.recordings -= 1
        return (self._asked(name),)
