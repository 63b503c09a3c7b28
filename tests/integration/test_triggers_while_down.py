"""Triggers that are sent while no daemon is there: the sender that docs/messages.md shows, against real restarts."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zmq
from closable import Keep
from line_values import free_port
from test_daemon import PATIENCE_S, ROOT, daemon

from inspectd.records.reading import RecordReader

Context = zmq.Context[zmq.Socket[bytes]]


def documented() -> Any:
    """The functions of the page, as they stand there."""
    page = (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"zmq": zmq}
    exec(code, names)  # noqa: S102 - our own page
    return SimpleNamespace(**names)


def until(true: Callable[[], object]) -> None:
    """Ask again and again. Raises TimeoutError."""
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end_s:
            raise TimeoutError


def test_no_trigger_waits_for_the_next_start(tmp_path: Path, context: Context, closed_after: Keep) -> None:
    """After a kill each trigger is refused at its sender; the next daemon judges the parts that come then, no other."""
    sender, endpoint = documented(), f"tcp://127.0.0.1:{free_port()}"
    socket = closed_after(sender.trigger_socket(context, endpoint))
    assert not sender.trigger(socket, part_id="before the first start")
    with daemon(tmp_path, trigger={"source": "zmq", "endpoint": endpoint}) as running:
        until(lambda: sender.trigger(socket, part_id="first", age_ms=0.5))
        until(lambda: recorded(running.folder) == ["first"])
        running.end(signal.SIGKILL)
    until(lambda: not socket.poll(0, zmq.POLLOUT))
    assert not any(sender.trigger(socket, part_id=f"gone by {number}") for number in range(100))
    with daemon(tmp_path) as running:
        until(lambda: sender.trigger(socket, part_id="second"))
        until(lambda: "second" in recorded(running.folder))
        running.end()
    assert recorded(running.folder) == ["first", "second"]


def recorded(folder: Path) -> list[str]:
    """The parts of the records, by their numbers."""
    with RecordReader(folder) as reader:
        return [part.verdict.part_id for part in reader.all()]
