"""Types of arguments that several sub-commands take."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """A whole number of at least 1. Raises ValueError or ArgumentTypeError, which argparse turns into wrong usage."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
