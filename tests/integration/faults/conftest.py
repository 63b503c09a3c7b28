"""What the fault tests share: a line around the real daemon with fault injectors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_station import TinyStation

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from faulty_line import FaultyLine  # needs tools/ on the path


@pytest.fixture
def line(tiny_station: TinyStation, tmp_path: Path) -> Iterator[Callable[..., FaultyLine]]:
    """Makes lines that run, with settings changed section by section, and ends them."""
    made: list[FaultyLine] = []

    def make(*, run: bool = True, tiny: TinyStation = tiny_station, **changes: Any) -> FaultyLine:
        made.append(FaultyLine(tiny, tmp_path, **changes))
        if run:
            made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close()
