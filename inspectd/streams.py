"""Standard streams that a program may rely on: where one is closed or full, nobody is told, and all else holds.

A descriptor that is closed as a program starts is given to the next file or socket that it opens, and what a library
writes to "standard error" would go there; Python has no stream object for it at all.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast


def open_closed_streams() -> None:
    """Open on /dev/null what is closed of standard input, output and error. To be called before anything else.

    A file gets the lowest number that is free, so each, in this order, gets that of its closed stream.
    """
    if sys.stdin is None:
        sys.stdin = _nowhere("r")
    if sys.stdout is None:
        sys.stdout = _nowhere("w")
    if sys.stderr is None:
        sys.stderr = _nowhere("w")


def tell(line: str) -> None:
    """Write a line to standard error, where somebody can be told."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def let_output_go() -> None:
    """Write what still waits for standard output; where that cannot be, it goes nowhere, and Python's end is quiet."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _nowhere(mode: str) -> TextIO:
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8"))
