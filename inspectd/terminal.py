"""What people see: text from outside as it is, tables as wide as their place allows, and progress bars.

Part ids, file names, labels and errors come from outside. A name with square brackets is no markup, and one with an
escape sequence steers no terminal. `PlainConsole` is the one place that sees to it; every command prints through it.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

PIPED_WIDTH = 200


def printable(text: str) -> str:
    """The text without what a terminal would obey: control characters but the line end become question marks."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


class PlainConsole(Console):
    """A console that takes strings as they are: no markup, no emoji codes, no colours guessed, nothing to obey.

    Style is given by `style=` and by rich's own objects.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """A string as text; cells of tables and titles come this way, too."""
        return super().render_str(printable(text), **{**how, "markup": False, "emoji": False, "highlight": False})


def table_console() -> PlainConsole:
    """A console on standard output that does not squeeze tables into 80 columns where nobody asked for it."""
    return PlainConsole(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def description(style: str = "{task.description}") -> ProgressColumn:
    """The column that says what is being done."""
    return TextColumn(style, markup=False)


def progress_bar(*, passing: bool = True) -> Progress:
    """A bar on standard error. `passing`: it goes away when done, and is not drawn where no terminal is."""
    columns = (description(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns, console=PlainConsole(stderr=True), transient=passing, disable=passing and not sys.stderr.isatty()
    )
