"""What people see: tables as wide as their place allows, and progress bars on standard error."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PIPED_WIDTH = 200


def table_console() -> Console:
    """A console on standard output that does not squeeze tables into 80 columns where nobody asked for it."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def progress_bar(*, passing: bool = True) -> Progress:
    """A bar on standard error. `passing`: it goes away when done, and is not drawn where no terminal is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, console=Console(stderr=True), transient=passing, disable=passing and not sys.stderr.isatty()
    )
