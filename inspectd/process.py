"""How the daemon's process runs beside others: memory, cores, priorities, garbage; set around the stages' start.

Each wish that the system refuses is one warning and a gauge: verdicts go on without it, only later under load.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, get_native_id

import structlog

from inspectd.sections import ProcessSettings

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
"""From <sys/mman.h>. ONFAULT: what is mapped but never used (libraries, stacks) takes no memory."""
PR_SET_TIMERSLACK = 29
"""From <sys/prctl.h>."""
QUIET_THRESHOLDS = (50_000, 50, 100)
IDLE_COLLECTION_S = 1.0
GIVE_BACK_WITHIN_S = 5.0
LOWEST = 19
MS_PER_S = 1000.0
log = structlog.get_logger(__name__)


def raise_file_limit() -> None:
    """Let this process open as many files and connections as the system's hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files was not raised", limit=soft, why=str(error))


@contextmanager
def on_engine_cores(settings: ProcessSettings) -> Iterator[None]:
    """Keep this thread on the engine's cores meanwhile: the threads that an engine starts as it loads inherit them."""
    before = os.sched_getaffinity(0)
    try:
        if settings.engine_cores:
            with suppress(OSError):  # `Process` asks for the same, and tells
                os.sched_setaffinity(0, settings.engine_cores)
        yield
    finally:
        if os.sched_getaffinity(0) != before:
            os.sched_setaffinity(0, before)


@contextmanager
def behind_the_rest(settings: ProcessSettings) -> Iterator[None]:
    """Lower this thread's priority meanwhile: while it loads an engine, the parts of the running one come first.

    The threads that an engine starts as it loads inherit that, and those of OpenVINO judge parts later: in the end
    they get the usual priority too. Nothing is lowered where the system would not let it rise again.
    """
    usual = os.getpriority(os.PRIO_PROCESS, get_native_id())
    lower = min(LOWEST, usual + settings.loading_niceness)
    if lower == usual:
        yield
        return
    if not _rises_again(usual, lower):
        why = "LimitNICE= in the unit, and setpriority in its SystemCallFilter=, allow it"
        log.warning("an engine is loaded at the priority of all others, and may delay verdicts", remedy=why)
        yield
        return
    before = _threads()
    os.setpriority(os.PRIO_PROCESS, get_native_id(), lower)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, get_native_id(), usual)
        for thread in _threads() - before:
            with suppress(OSError):  # it has ended
                if os.getpriority(os.PRIO_PROCESS, thread) == lower:
                    os.setpriority(os.PRIO_PROCESS, thread, usual)


def wake_in_time() -> None:
    """Have waits of this thread end when they are to; else Linux, to save power, ends them up to 50 us later."""
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Process:
    """Applies the settings, from the main thread: `before_stages`, then `stages_run`, then `idle` now and again.

    refused: the wishes that the system did not grant, one line each.
    """

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._next_collection_s = 0.0
        self._locked = False
        self._engines_freed = 0
        self._give_back_by_s: float | None = None
        self.refused: list[str] = []

    def before_stages(self) -> None:
        """Move this thread to the other cores, which everything started from now on inherits; set the switch time."""
        sys.setswitchinterval(self._settings.thread_switch_ms / MS_PER_S)
        if self._settings.other_cores:
            self._move(0, self._settings.other_cores, "other_cores")

    def stages_run(self, *, engine_thread: int, timed_threads: Sequence[int]) -> None:
        """Place the running threads, last of all before READY; blocks for the collection of what the start left.

        engine_thread: the system's id of the thread that waits for the engine. timed_threads: of those that take parts
        and give verdicts, which come first where `realtime_priority` says so.
        """
        if self._settings.engine_cores:
            self._move(engine_thread, self._settings.engine_cores, "engine_cores")
        if self._settings.realtime_priority:
            self._prefer(timed_threads)
        if self._settings.lock_memory:
            self._lock_memory()
        if self._settings.garbage_collection == "quiet":
            _quiet_garbage_collector()

    def granted(self) -> Mapping[str, bool]:
        """Each wish by its setting's name: whether it was granted."""
        settings = self._settings
        wished = {
            "lock_memory": settings.lock_memory,
            "realtime_priority": bool(settings.realtime_priority),
            "engine_cores": bool(settings.engine_cores),
            "other_cores": bool(settings.other_cores),
        }
        return {
            name: not any(line.startswith(f"process.{name}") for line in self.refused)
            for name, is_wished in wished.items()
            if is_wished
        }

    def idle(self, parts_pending: int, engines_freed: int) -> None:
        """Collect young garbage, at most once a second and only while no part waits: a fraction of a millisecond.

        engines_freed: how many so far. After each their memory is given back to the system, which takes some
        milliseconds: while no part waits, or after five seconds.
        """
        now_s = time.monotonic()
        if engines_freed != self._engines_freed:
            self._engines_freed = engines_freed
            self._give_back_by_s = now_s + GIVE_BACK_WITHIN_S
        if self._give_back_by_s is not None and (parts_pending == 0 or now_s >= self._give_back_by_s):
            self._give_back_by_s = None
            self._give_back_memory()
        if self._settings.garbage_collection == "quiet" and parts_pending == 0 and now_s >= self._next_collection_s:
            self._next_collection_s = now_s + IDLE_COLLECTION_S
            gc.collect(1)

    def _move(self, thread: int, cores: Sequence[int], setting: str) -> None:
        remedy = f"realtime.conf.example beside the unit allows it, if cores {list(cores)} exist"
        self._try(setting, remedy, lambda: os.sched_setaffinity(thread, cores))

    def _prefer(self, threads: Sequence[int]) -> None:
        priority = os.sched_param(self._settings.realtime_priority)

        def prefer() -> None:
            for thread in threads:
                os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, priority)

        self._try("realtime_priority", "realtime.conf.example beside the unit allows it", prefer)

    def _lock_memory(self) -> None:
        """With a limit, a later allocation would fail instead: locked is only where there is none."""

        def lock() -> None:
            if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            library = ctypes.CDLL(None, use_errno=True)
            if library.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
            self._locked = True

        self._try("lock_memory", "LimitMEMLOCK=infinity in the unit allows it", lock)

    def _give_back_memory(self) -> None:
        """The system takes no locked page back, neither from `free` nor from glibc's malloc_trim: unlock meanwhile."""
        library = ctypes.CDLL(None)
        trim = getattr(library, "malloc_trim", None)
        if trim is None:  # not glibc
            return
        was_locked, self._locked = self._locked, False
        if was_locked:
            library.munlockall()
        trim(0)
        if was_locked:
            self._lock_memory()

    def _try(self, setting: str, remedy: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:  # setrlimit raises ValueError where the limit may not be raised
            why = error.strerror if isinstance(error, OSError) else str(error)
            line = f"process.{setting} is not in force: {why}; {remedy}"
            self.refused.append(line)
            log.warning("real-time setting refused", why=line)


def _threads() -> set[int]:
    """The system's ids of this process's threads."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def _rises_again(usual: int, lower: int) -> bool:
    """Whether a thread may go down and up again; tried in one of its own, which stays low where it may not."""
    risen = []

    def attempt() -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), lower)
            os.setpriority(os.PRIO_PROCESS, get_native_id(), usual)
            risen.append(True)

    thread = Thread(target=attempt, name="priority-probe")
    thread.start()
    thread.join()
    return bool(risen)


def _quiet_garbage_collector() -> None:
    """What lives now lives on: look only at what comes later, and seldom, so that no verdict waits for a collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*QUIET_THRESHOLDS)
