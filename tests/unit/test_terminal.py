"""What comes from outside is printed as it is: brackets are no markup, escape sequences steer nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from line_values import RUN, verdict
from rich.progress import Progress
from rich.table import Table

from inspectd.commands.watch import View
from inspectd.messages import Outcome
from inspectd.terminal import PlainConsole, description
from inspectd.wire.public import result

ROOT = Path(__file__).parents[2]
NAMES = ["tray[a]7", "A-17[/1]", "[red]x[/red]", ":smile:", "[link=http://x]y", "[", "\\[b]"]


def printed(what: object) -> str:
    """What a console of ours makes of it, 200 columns wide, with colours allowed."""
    console = PlainConsole(width=200)
    console.file = io.StringIO()
    console.print(what)
    text: str = console.file.getvalue()
    return text


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name: str) -> None:
    """In a line, in a table's cells, heads and title, and before a bar."""
    table = Table("part", name, title=name)
    table.add_row("1", name)
    assert printed(name).strip() == name
    assert printed(table).count(name) == 3
    console = PlainConsole(width=200)
    console.file = io.StringIO()
    with Progress(description(), console=console) as bars:
        bars.add_task(name)
    assert name in console.file.getvalue()


def test_escape_sequences_are_shown_as_question_marks() -> None:
    """A file name must not clear the screen of whoever reads the report."""
    assert printed("a\x1b[2Jb\x07").strip() == "a?[2Jb?"


@pytest.mark.parametrize("name", NAMES)
def test_watch_draws_parts_of_any_name(name: str) -> None:
    """The screen goes on, and shows the id as it was sent."""
    view = View("test", "tcp://127.0.0.1:1")
    message = result(verdict(7, Outcome.REJECT), RUN) | {"part_id": name, "detail": f"{name}: over"}
    view.take(message)
    assert name in printed(view.draw())


def test_watch_says_that_it_is_blind() -> None:
    """Messages that it cannot read are no silence, and no sign of health either."""
    view = View("test", "tcp://127.0.0.1:1")
    view.take(result(verdict(7, Outcome.PASS), RUN))
    assert "BLIND" not in printed(view.draw())
    view.unreadable = 3
    assert "BLIND: 3 messages" in printed(view.draw())


def test_no_other_console_is_made_anywhere() -> None:
    """The rule that keeps it so: rich's own Console would read names as markup."""
    own = ROOT / "inspectd" / "terminal.py"
    sources = [path for folder in ("inspectd", "tools") for path in (ROOT / folder).rglob("*.py") if path != own]
    assert sources
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![A-Za-z])(Console|TextColumn)\(", text), path
        assert "rich.markup" not in text, path
