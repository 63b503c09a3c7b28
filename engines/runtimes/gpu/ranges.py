"""Named ranges for Nsight Systems: NVTX where the package nvtx is installed and asked for, else nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

from engines.errors import EngineUnavailable

Ranges = Callable[[str], AbstractContextManager[object]]
_NOTHING = nullcontext()


def no_ranges(name: str) -> AbstractContextManager[object]:
    """Marks nothing."""
    return _NOTHING


def nvtx_ranges() -> Ranges:
    """Ranges of the domain inspectd. Raises EngineUnavailable where the package nvtx is missing."""
    try:
        nvtx = import_module("nvtx")
    except ImportError as error:
        raise EngineUnavailable(f"NVTX cannot be imported ({error}): pip install nvtx") from error

    def mark(name: str) -> AbstractContextManager[object]:
        marked: AbstractContextManager[object] = nvtx.annotate(name, domain="inspectd")
        return marked

    return mark
