"""Names of a fused graph's nodes: each begins with the path of the submodule that it comes from."""

from __future__ import annotations

from typing import Final

TAIL: Final = "tail"
"""The submodule that scores; computed in float32 by every engine."""
MEMORY: Final = "network.memory"
"""Likewise in float32: a distance is a small difference of large numbers."""


def within(name: str, scope: str) -> bool:
    """Tell whether a node of that name comes from the submodule `scope`, or from one inside it."""
    return name.startswith((f"{scope}/", f"{scope}."))


def is_exact(name: str) -> bool:
    """Tell whether a node's name says that it comes from a submodule that every engine computes in float32."""
    return within(name, TAIL) or within(name, MEMORY)
