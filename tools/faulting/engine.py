"""An engine that fails when the board says so, around the bundle's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np

from engines.errors import EngineFault, EngineTimeout, EngineUnavailable
from engines.runtimes import Outputs, Runtime, RuntimeInfo, Slot
from faulting.board import Board, Injection, Kind
from inspectd.engine_guard import Engine
from inspectd.messages import Image

SPOILING = frozenset(kind for kind in Kind if kind.value.startswith("engine.")) - {Kind.ENGINE_LOAD}


class FaultySlot:
    """One part in flight through the engine's own slot; start, wait and answer are spoilt as the board says."""

    def __init__(self, slot: Slot, board: Board) -> None:
        self._slot = slot
        self._board = board
        self._now: Injection | None = None
        self._hangs_until_s = 0.0

    @property
    def input(self) -> Image:
        """The engine's own buffer."""
        return self._slot.input

    def start(self) -> None:
        """Begin; what hangs or is slow begins in `wait`. Raises EngineFault, also while the one before still hangs."""
        if time.monotonic() < self._hangs_until_s:
            raise EngineFault("injected: the inference before still runs")
        self._now = self._board.take(SPOILING)
        kind = None if self._now is None else self._now.kind
        if kind is Kind.ENGINE_FAULT:
            raise EngineFault("injected: the inference failed")
        if kind is Kind.ENGINE_CRASH:
            raise ZeroDivisionError("injected: an error that nobody foresaw")
        self._slot.start()

    def wait(self, timeout_s: float) -> Outputs:
        """The engine's answer, spoilt, or late, or never."""
        injection, self._now = self._now, None
        if injection is None:
            return self._slot.wait(timeout_s)
        if injection.kind in (Kind.ENGINE_SLOW, Kind.ENGINE_HANG):
            timeout_s = self._linger(injection, timeout_s)
        if injection.kind is Kind.ENGINE_STUCK:
            Event().wait(injection.amount_s or None)  # whatever `timeout_s` says
        answer = self._slot.wait(timeout_s)
        if injection.kind is Kind.ENGINE_NAN:
            return replace(answer, part_score=math.nan, region_scores=np.full_like(answer.region_scores, np.nan))
        if injection.kind is Kind.ENGINE_REGIONS:
            return replace(answer, region_scores=answer.region_scores[:-1])
        return answer

    def _linger(self, injection: Injection, timeout_s: float) -> float:
        """Take as long as it says and return the time that is left. Raises EngineTimeout where it is too long."""
        takes_s = injection.amount_s or math.inf
        if takes_s > timeout_s:
            self._hangs_until_s = time.monotonic() + takes_s
            time.sleep(timeout_s)
            raise EngineTimeout(f"injected: the inference did not end within {timeout_s * 1000:.0f} ms")
        time.sleep(takes_s)
        return timeout_s - takes_s


class FaultyRuntime:
    """A loaded engine whose slots may fail."""

    def __init__(self, runtime: Runtime, board: Board) -> None:
        self._runtime = runtime
        self._slots = tuple(FaultySlot(slot, board) for slot in runtime.slots)
        self._board = board

    @property
    def info(self) -> RuntimeInfo:
        """What is running."""
        return self._runtime.info

    @property
    def slots(self) -> Sequence[FaultySlot]:
        """The engine's slots, each behind its injector."""
        return self._slots

    def close(self) -> None:
        """Free the engine."""
        self._runtime.close()


def faulty_engine(load: Callable[[Path | None], Engine], board: Board) -> Callable[[Path | None], Engine]:
    """A loader like `load`, golden check included, whose engines may fail from then on, and which may fail itself."""

    def load_faulty(bundle: Path | None) -> Engine:
        if board.take({Kind.ENGINE_LOAD}) is not None:
            raise EngineUnavailable("injected: the engine cannot be loaded")
        engine = load(bundle)
        return replace(engine, runtime=FaultyRuntime(engine.runtime, board))

    return load_faulty
