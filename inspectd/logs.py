"""Logging: lines for people on a terminal, JSON for a log collector; always on standard error, and never in the way."""

from __future__ import annotations

import atexit
import logging
import sys
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
    """Configure structlog once, for this process."""
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
