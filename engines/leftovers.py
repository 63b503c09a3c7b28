"""What file managers, archives and file servers leave behind in folders of images."""

from __future__ import annotations

from typing import Final

_NAMES: Final = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("__macosx", "icon\r", "lost+found"),
        *("@eadir", "#recycle", "@recycle", "#snapshot"),
    }
)


def left_behind(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or made by a system in any case."""
    return name.startswith(".") or name.lower() in _NAMES
