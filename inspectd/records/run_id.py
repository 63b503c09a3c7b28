"""The id of a run of numbers: a number names one part only together with it.

It lies in `run` beside the numbers. It stays over restarts, and is another one where numbers begin again: in a new
folder, or where both the numbers' file and the records were taken away.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import structlog

NAME = "run"
_ID = re.compile(rb"[0-9a-f]{32}\n")
log = structlog.get_logger(__name__)


def run_id(folder: Path, *, anew: bool) -> str:
    """The id of the numbers in `folder`, 32 hexadecimal digits; blocks for the disk. anew: they begin with the first.

    Where the disk refuses a new id, it holds until the daemon ends: no reason to inspect nothing.
    """
    if not anew and (known := known_run(folder)):
        return known
    made = uuid.uuid4().hex
    try:
        _store(folder, made)
    except OSError as error:
        log.warning(
            "the run of numbers cannot be written: clients will start over after a restart",
            path=str(folder / NAME),
            why=str(error),
        )
    return made


def restore_run(folder: Path, run: str) -> bool:
    """Put the id back where another program removed it: the numbers go on. True where that was so. Raises OSError."""
    if known_run(folder) == run:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _store(folder, run)
    return True


def known_run(folder: Path) -> str:
    """The id that lies in `folder`, empty where none can be read."""
    try:
        data = (folder / NAME).read_bytes()
    except OSError:
        return ""
    return data.decode("ascii").strip() if _ID.fullmatch(data) else ""


def _store(folder: Path, made: str) -> None:
    """Put the file in place in one step, and on the disk. Raises OSError."""
    part = folder / f"{NAME}.part"
    with part.open("wb") as file:
        file.write(f"{made}\n".encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / NAME)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
