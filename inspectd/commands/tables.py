"""Where tables are printed: as wide as the terminal, and wide enough for a file or a pipe."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 200


def table_console() -> Console:
    """A console on standard output that does not squeeze tables into 80 columns where nobody asked for it."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
