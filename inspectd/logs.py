"""Logging: lines for people on a terminal, JSON for a log collector; always on standard error, and never in the way."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread

import structlog

MOST_WAITING = 1_000
ENDS_S = 1.0


class Writer:
    """Takes lines without blocking, and writes them to standard error in a thread of its own.

    Where nobody reads standard error, lines beyond MOST_WAITING are lost, and how many is the next line that is read:
    a log that stalls must not stall the thread that gives verdicts.
    """

    def __init__(self) -> None:
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._lock = Lock()
        self._lost = 0
        self._thread = Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Take one line."""
        with self._lock:
            if self._lines.qsize() >= MOST_WAITING:
                self._lost += 1
                return
            lost, self._lost = self._lost, 0
        if lost:
            self._lines.put(f"{lost} log lines were lost: nobody read standard error")
        self._lines.put(line)

    debug = info = warning = error = critical = exception = fatal = msg

    def close(self) -> None:
        """Write what waits, for a second at most."""
        self._lines.put(None)
        self._thread.join(ENDS_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # standard error is closed: there is nobody to tell
                print(line, file=sys.stderr, flush=True)  # noqa: T201


def set_up_logging() -> None:
    """Configure structlog once, for this process; what Python and its libraries would print by themselves joins it."""
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.types.Processor]
    if sys.stderr.isatty():
        last = [structlog.dev.ConsoleRenderer()]
    else:
        last = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    writer = Writer()
    atexit.register(writer.close)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    _take_over()


def _take_over() -> None:
    """What would otherwise be printed as a traceback of many lines: faults of threads and finalisers, warnings, and
    what libraries log through `logging`."""
    log = structlog.get_logger("python")

    def of_thread(fault: threading.ExceptHookArgs) -> None:
        if fault.exc_value is not None and not isinstance(fault.exc_value, SystemExit):
            name = "" if fault.thread is None else fault.thread.name
            log.error("a thread failed", thread=name, exc_info=fault.exc_value)

    def passed_over(fault: sys.UnraisableHookArgs) -> None:
        why = fault.err_msg or "Exception ignored in"
        log.error("an error was passed over", why=f"{why}: {fault.object!r}", exc_info=fault.exc_value)

    threading.excepthook = of_thread
    sys.unraisablehook = passed_over
    logging.captureWarnings(True)
    root = logging.getLogger()
    if not any(isinstance(handler, _Library) for handler in root.handlers):
        root.addHandler(_Library(logging.WARNING))


class _Library(logging.Handler):
    """Hands on what a library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """As one line of the log."""
        log = structlog.get_logger("python")
        tell = log.error if record.levelno >= logging.ERROR else log.warning
        why = " ".join(record.getMessage().split())
        tell("a library says", library=record.name, why=why, exc_info=record.exc_info)
