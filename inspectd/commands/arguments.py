"""Types of arguments that several sub-commands take."""

from __future__ import annotations

import argparse
from pathlib import Path

from inspectd.config import Station
from inspectd.wire.keys import LOCAL_CLIENT, SECRET_SUFFIX, ClientKey, read_client_key


def count(text: str) -> int:
    """A whole number of at least 1. Raises ValueError or ArgumentTypeError, which argparse turns into wrong usage."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def add_key(parser: argparse.ArgumentParser) -> None:
    """Declare --key, for commands that talk to a daemon."""
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="client key of `inspectd keys` (default: this machine's own, where the station asks for keys)",
    )


def client_key(station: Station, path: Path | None) -> ClientKey | None:
    """The key that a client of the station comes in with: --key, else this machine's own; None where TCP is plain.

    Raises KeysError.
    """
    folder = station.key_folder()
    if path is None and folder is not None:
        path = folder / (LOCAL_CLIENT + SECRET_SUFFIX)
    return None if path is None else read_client_key(path)
