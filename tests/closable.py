"""What a test gives the fixture `closed_after`."""

from __future__ import annotations

from typing import Protocol, TypeVar


class Closable(Protocol):
    """What has to be closed by the end of a test."""

    def close(self) -> None:
        """Let go of sockets."""


ClosableT = TypeVar("ClosableT", bound=Closable)


class Keep(Protocol):
    """Takes what is to be closed, and gives it back."""

    def __call__(self, thing: ClosableT, /) -> ClosableT:
        """Close it at the end of the test."""
