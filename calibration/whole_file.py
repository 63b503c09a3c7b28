"""Files that are written whole or not at all: whoever reads one finds the old or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it takes the place of `path` at the end, and is gone where the body fails.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - replaces
    finally:
        temporary.unlink(missing_ok=True)
