"""Hands the inspect stage the engine that judges; replaces one that hangs; exchanges bundles between two parts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Protocol

import structlog

from engines.errors import BundleError
from engines.runtimes import Runtime
from inspectd.errors import InspectdError
from inspectd.health.meters import Count, Meters
from inspectd.messages import DeepImage, Image, Pose, Thresholds
from inspectd.sections import SupervisionSettings
from inspectd.wire.public import Json

LONGEST_PAUSE_S = 30.0
CLOSES_WITHIN_S = 5.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What judges: a loaded runtime, its regions in the order of its scores, their limits, and the bundle of both.

    locate: finds parts by the bundle's own template; None: as the station's settings alone say.
    folder: where the bundle lies, to load it from again; None: the station's active one. why: this runtime and no
    other, one line. reference: quantity -> its values on calibration's held-out good parts; empty where the bundle does
    not know them.
    """

    runtime: Runtime
    regions: tuple[str, ...]
    thresholds: Thresholds
    bundle_hash: str
    folder: Path | None = None
    why: str = ""
    reference: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    locate: LocatePart | None = None

    def __str__(self) -> str:
        """Runtime, version, precision and device, for people."""
        info = self.runtime.info
        return f"{info.runtime} {info.version} {info.precision} {info.device}"


class LocatePart(Protocol):
    """Writes the part of an (H, W, 3) uint8 RGB frame, in canonical pose, into `out`."""

    def __call__(self, image: DeepImage, out: Image) -> Pose:
        """Return where the part lay. Raises PartFault."""


class EngineLost(InspectdError):
    """The engine failed more often than the settings allow: systemd starts the daemon afresh."""

    exit_code = 9


class Engines(Protocol):
    """Where the inspect step takes its engine from, part by part. Used by one thread."""

    def current(self) -> Engine | None:
        """The engine for the next part; None while there is none."""

    def judged(self) -> None:
        """The engine gave an answer that can be judged."""

    def failed(self, why: str, *, hung: bool) -> None:
        """The engine failed on a part; hung: it did not answer in time, and may still be at it."""


class OneEngine:
    """The same engine for every part: where nothing watches over it, as in a replay."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def current(self) -> Engine:
        """The engine."""
        return self._engine

    def judged(self) -> None:
        """Nothing to note."""

    def failed(self, why: str, *, hung: bool) -> None:
        """Nothing to do: the part's fault says it."""


class RestartBudget:
    """How often an engine may be restarted: at most `restarts` times in any `window_s`, with growing pauses."""

    def __init__(self, restarts: int, window_s: float) -> None:
        self._restarts, self._window_s = restarts, window_s
        self._taken_s: deque[float] = deque()

    def take(self, now_s: float) -> float | None:
        """Take one restart: how long to wait before it (0, 1, 2, 4 .. 30 s), or None where the budget is spent."""
        taken = self.taken(now_s)
        if taken >= self._restarts:
            return None
        self._taken_s.append(now_s)
        return min(LONGEST_PAUSE_S, 2.0 ** (taken - 1)) if taken else 0.0

    def taken(self, now_s: float) -> int:
        """How many were taken within the window that ends now."""
        while self._taken_s and now_s - self._taken_s[0] >= self._window_s:
            self._taken_s.popleft()
        return len(self._taken_s)


class EngineGuard:
    """Watches over the engine. `current`, `judged`, `failed`: the inspect stage; the rest: the main thread.

    An engine that hangs, or fails too often in a row, is abandoned: its thread may never return, so nobody waits for
    it. Another one is loaded, warmed up and golden-checked in a thread of its own; meanwhile there is none. An
    exchange of bundles goes the same way, beside the engine that judges, and takes effect between two parts.
    load: the engine of the bundle in a folder, None: the active one. changed: told of another bundle's engine just
    before it takes over, in the loader's thread.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        load: Callable[[Path | None], Engine],
        settings: SupervisionSettings,
        meters: Meters,
        changed: Callable[[Engine], None],
    ) -> None:
        self._engine: Engine | None = engine
        self._running = engine  # the last one that judged
        self._load, self._settings, self._meters, self._changed = load, settings, meters, changed
        self._budget = RestartBudget(settings.restarts, settings.window_s)
        self._lock = Lock()
        self._fresh: Engine | None = None
        self._abandoned_s: float | None = None
        self._why = ""
        self._lost = ""
        self._busy_since_s: float | None = None
        self._stop = Event()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._loader = Thread(target=self._work, name="engine-loader", daemon=True)
        self._closers: list[Thread] = []
        self._freed = 0
        self._loader.start()

    @property
    def freed(self) -> int:
        """How many engines, those that could not be loaded among them, have been freed."""
        return self._freed

    def current(self) -> Engine | None:
        """The engine for the next part, a fresh one as soon as there is one; None while there is none."""
        if self._fresh is not None:
            self._take_over()
        return self._engine

    def judged(self) -> None:
        """The engine gave an answer that can be judged."""
        self._meters.engine_faults_in_a_row = 0

    def failed(self, why: str, *, hung: bool) -> None:
        """Note a failure; one that hung, or one too many in a row, costs the engine its place. Does not block."""
        self._meters.count(Count.ENGINE_FAULTS)
        self._meters.engine_faults_in_a_row += 1
        if self._engine is None or not (hung or self._meters.engine_faults_in_a_row >= self._settings.faults_in_a_row):
            return
        abandoned, self._engine = self._engine, None
        self._why = why
        self._abandoned_s = time.monotonic()
        self._meters.count(Count.ENGINES_ABANDONED)
        self._meters.engine_faults_in_a_row = 0
        log.error("engine abandoned: parts are INVALID until another one is loaded", why=why, hung=hung)
        self._close(abandoned)
        self._jobs.put(self._restart)

    def exchange(self, bundle: Path | None) -> None:
        """Load the bundle in a folder (None: the active one) beside the running one, and let it take over."""
        self._jobs.put(lambda: self._exchange(bundle))

    def check(self) -> None:
        """Raise EngineLost where no engine is to be had any more, or one takes too long to load."""
        busy_since_s = self._busy_since_s
        if self._engine is None and busy_since_s is not None:
            busy_s = time.monotonic() - busy_since_s
            if busy_s > self._settings.load_timeout_s:
                raise EngineLost(f"no engine was loaded within {busy_s:.0f} s after: {self._why}; see the log")
        if self._lost:
            raise EngineLost(self._lost)

    def worries(self) -> list[str]:
        """One line while there is no engine."""
        since_s = self._abandoned_s
        if since_s is None:
            return []
        return [f"no engine for {time.monotonic() - since_s:.1f} s, another one is being loaded: {self._why}"]

    def report(self) -> Json:
        """Its part of the health message."""
        return {"available": self._engine is not None, "restarts_in_window": self._budget.taken(time.monotonic())}

    def close(self) -> bool:
        """Let go of the engine, which nobody uses any more; False where one still hangs, which nothing can end."""
        self._stop.set()
        self._jobs.put(None)
        self._loader.join(CLOSES_WITHIN_S)
        with self._lock:
            left = [engine for engine in (self._engine, self._fresh) if engine is not None]
            self._engine = self._fresh = None
        for engine in left:
            self._close(engine)
        give_up_s = time.monotonic() + CLOSES_WITHIN_S
        for closer in self._closers:
            closer.join(max(0.0, give_up_s - time.monotonic()))
        return not any(thread.is_alive() for thread in (self._loader, *self._closers))

    def _take_over(self) -> None:
        with self._lock:
            before, fresh, self._fresh = self._engine, self._fresh, None
            if fresh is None:
                return
            was, self._engine, self._running = self._running, fresh, fresh
        if before is not None:
            self._close(before)
        since_s, self._abandoned_s = self._abandoned_s, None
        if since_s is not None:
            down_s = time.monotonic() - since_s
            self._meters.engine_restarted(down_s)
            log.warning("engine restarted", after_s=round(down_s, 3), why=self._why, bundle=fresh.bundle_hash[:16])
        if fresh.bundle_hash != was.bundle_hash:
            self._meters.count(Count.BUNDLES_EXCHANGED)
            log.info("bundle exchanged", before=was.bundle_hash[:16], now=fresh.bundle_hash[:16])

    def _close(self, engine: Engine) -> None:
        """Free an engine that nobody uses any more; in a thread of its own, which may never end."""
        self._closers = [thread for thread in self._closers if thread.is_alive()]
        closer = Thread(target=self._free, args=(engine,), name="engine-closer", daemon=True)
        closer.start()
        self._closers.append(closer)

    def _free(self, engine: Engine) -> None:
        """A closer's thread."""
        engine.runtime.close()
        self._count_freed()

    def _count_freed(self) -> None:
        with self._lock:
            self._freed += 1

    def _work(self) -> None:
        """The loader's thread."""
        while (job := self._jobs.get()) is not None:
            job()

    def _restart(self) -> None:
        """Load the bundle that judged last once more, until it works or the budget is spent."""
        while not self._stop.is_set() and self._engine is None and self._fresh is None:
            pause_s = self._budget.take(time.monotonic())
            if pause_s is None:
                allowed = f"{self._settings.restarts} times in {self._settings.window_s:g} s"
                self._lost = f"the engine failed again after it was replaced {allowed}: {self._why}; see the log"
                return
            self._stop.wait(pause_s)
            try:
                self._publish(self._loaded_again())
            except Exception as error:  # the loader's outermost loop: whatever it was, the budget bounds it
                self._why = str(error)
                log.error("engine not replaced", why=f"{type(error).__name__}: {error}")

    def _loaded(self, folder: Path | None) -> Engine:
        """As `load`, watched by `check`."""
        self._busy_since_s = time.monotonic()
        try:
            return self._load(folder)
        except Exception:
            self._count_freed()
            raise
        finally:
            self._busy_since_s = None

    def _loaded_again(self) -> Engine:
        """The bundle that judged last. Raises BundleError where its folder holds another one now."""
        fresh = self._loaded(self._running.folder)
        if fresh.bundle_hash != self._running.bundle_hash:
            self._close(fresh)
            raise BundleError(f"{self._running.folder}: holds another bundle than the one that ran; restart the daemon")
        return fresh

    def _exchange(self, bundle: Path | None) -> None:
        running = self._running
        try:
            fresh = self._loaded(bundle)
        except Exception as error:  # the loader's outermost loop: no bundle may disturb the running one
            self._meters.count(Count.BUNDLES_REFUSED)
            why = str(error) or type(error).__name__
            log.error("bundle refused, the running one goes on", why=why, running=running.bundle_hash[:16])
            return
        if fresh.bundle_hash == running.bundle_hash and self._engine is not None:
            self._close(fresh)
            log.info("the active bundle is the running one", bundle=running.bundle_hash[:16])
            return
        if fresh.bundle_hash != running.bundle_hash:
            self._changed(fresh)
        self._publish(fresh)

    def _publish(self, fresh: Engine) -> None:
        """Let an engine take over before the next part; one that waited for that itself is let go of."""
        with self._lock:
            before, self._fresh = self._fresh, fresh
        if before is not None:
            self._close(before)
