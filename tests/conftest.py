"""Shared fixtures; helpers that tests import: bundle_making, closable, fake_runtime, line_values, tiny_station."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

# Processes side by side, each with a thread for each core, mostly wait for each other. Set before any of them starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import tiny_station as tiny
import zmq
from closable import ClosableT, Keep
from hypothesis import HealthCheck, settings

TERMINATES_WITHIN_S = 5.0

sys.path.append(str(Path(__file__).parents[1] / "tools"))  # for the drawn parts of tools/locating

# No time limit of its own for an example: a machine that stands still for a moment is no fault of the code.
settings.register_profile(
    "steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("steady")

# FFmpeg takes its log level at its first use in the process, which here may be a test that writes a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context whose sockets must all be closed by the end of the test: one that cannot terminate fails it."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    ending = Thread(target=made.term, daemon=True)
    ending.start()
    ending.join(TERMINATES_WITHIN_S)
    assert not ending.is_alive(), "the context does not terminate: a socket was left open"


@pytest.fixture
def closed_after(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Keep]:
    """Closes what a test gave it, the last first, before the context has to terminate."""
    with ExitStack() as stack:

        def keep(thing: ClosableT, /) -> ClosableT:
            stack.callback(thing.close)
            return thing

        yield keep


@pytest.fixture(scope="session")
def tiny_station(tmp_path_factory: pytest.TempPathFactory) -> tiny.TinyStation:
    """A station with a real bundle, calibrated once for all tests in a few steps (some 15 s)."""
    return tiny.make(tmp_path_factory.mktemp("tiny-station"))
