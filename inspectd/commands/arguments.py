"""Types of arguments that several sub-commands take."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Final

from inspectd.config import Station
from inspectd.wire.keys import LOCAL_CLIENT, SECRET_SUFFIX, ClientKey, read_client_key

MOST: Final = 10**12
MOST_SEED: Final = 2**32 - 1
DAY_S: Final = 86_400
LATEST_NS: Final = 2**63 - 1
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """The type of an option that is a whole number from `least` to `most`. It raises ArgumentTypeError: wrong usage."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError("expected a whole number") from error
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}")
        return value

    return read


def number(most: float) -> Callable[[str], float]:
    """The type of an option that is more than 0 and at most `most`."""

    def read(text: str) -> float:
        value = _float(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"must be more than 0, at most {most:g}")
        return value

    return read


def share(text: str) -> float:
    """A number from 0 to 1. Raises ArgumentTypeError."""
    value = _float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def moment_ns(text: str) -> int:
    """An ISO 8601 date or time as nanoseconds since 1970; UTC where it names no zone. Raises ArgumentTypeError.

    What 64 bits cannot hold, before 1677 and after 2262, becomes the first or last moment that they can.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected a date or time such as 2026-11-22 or 2026-11-22T06:00") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    since_ns = (moment - EPOCH) // datetime.timedelta(microseconds=1) * 1000
    return max(-LATEST_NS, min(LATEST_NS, since_ns))


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected a number") from error


count: Final = whole(1)
seed: Final = whole(0, MOST_SEED)


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
