"""Names of a fused graph's nodes: each begins with the path of the submodule that it comes from."""

from __future__ import annotations

from typing import Final

TAIL: Final = "tail"
"""The submodule that scores; computed in float32 by every engine."""


def within(name: str, scope: str) -> bool:
    """Tell whether a node of that name comes from the submodule `scope`, or from one inside it."""
    return name.startswith((f"{scope}/", f"{scope}."))


def in_tail(name: str) -> bool:
    """Tell whether a node's name says that it comes from the submodule `tail`."""
    return within(name, TAIL)
