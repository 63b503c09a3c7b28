"""A stage's thread: says when it is ready, keeps the error that ended it, and stops when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread, get_native_id

import structlog

log = structlog.get_logger(__name__)


class Worker:
    """Runs body(stop, ready) in its own thread. The body makes and closes its sockets, and calls `ready` in between.

    An error that leaves the body ends the stage: it is kept in `error`, and `on_end` is called, as at a normal end.
    """

    def __init__(
        self, name: str, body: Callable[[Event, Callable[[], None]], None], on_end: Callable[[], None]
    ) -> None:
        self.name = name
        self.error: Exception | None = None
        self._body = body
        self._on_end = on_end
        self._stop = Event()
        self._ready = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self, timeout_s: float) -> None:
        """Start and wait until ready. Raises what the body raised before that, TimeoutError where it takes too long."""
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise TimeoutError(f"stage {self.name} was not ready within {timeout_s:g} s")
        if self.error is not None:
            raise self.error

    def stop(self, timeout_s: float) -> bool:
        """Ask the body to end and wait for it; False where it did not within `timeout_s`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """True once the body has returned or failed."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def thread_id(self) -> int:
        """The system's id of the started thread."""
        return self._thread.native_id or 0

    def _run(self) -> None:
        with suppress(OSError):  # the name that `top -H` shows; Python tells the system none
            Path(f"/proc/self/task/{get_native_id()}/comm").write_text(self.name, encoding="utf-8")
        try:
            self._body(self._stop, self._ready.set)
        except Exception as error:  # the stage's outermost loop: the pipeline stops, and says why
            self.error = error
            if self._ready.is_set():
                log.error("stage failed", stage=self.name, error=f"{type(error).__name__}: {error}", exc_info=True)
        finally:
            self._ready.set()
            self._on_end()
