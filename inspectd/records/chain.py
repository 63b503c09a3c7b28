"""Each entry of the records carries a hash over itself and the entry before: what was changed or removed later shows.

hash[n] = SHA-256(hash[n-1] + canonical(entry n)); before the first entry come 32 zero bytes, or, where retention
deleted the oldest entries, the hash of the last one that it deleted (table `anchor`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

GENESIS = bytes(32)


class Kind(StrEnum):
    """What an entry speaks for."""

    PART = "part"
    LATE = "late"
    TOLD = "told"
    IMAGE = "image"
    START = "start"
    STOP = "stop"
    GAP = "gap"
    CHALLENGE = "challenge"


class Anchor(NamedTuple):
    """Where the chain begins: the newest entry that retention deleted, and the largest number that went with it."""

    entry: int
    hash: bytes
    max_seq: int


def canonical(kind: Kind, values: Mapping[str, object]) -> bytes:
    """One entry as bytes: JSON, keys sorted, no spaces. What is NULL is left out, so that columns may be added."""
    content = {name: value for name, value in values.items() if value is not None}
    return json.dumps({"kind": kind.value, **content}, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def link(previous: bytes, content: bytes) -> bytes:
    """The hash of an entry with this content, after the entry with the hash `previous`; 32 bytes."""
    return hashlib.sha256(previous + content).digest()


def anchor(connection: sqlite3.Connection) -> Anchor:
    """Where the chain begins. Raises sqlite3.Error."""
    row = connection.execute("SELECT entry, hash, max_seq FROM anchor").fetchone()
    return Anchor(*row) if row is not None else Anchor(0, GENESIS, 0)


class Tail:
    """The end of the chain within one transaction: entries are appended, and stand or fall with it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        row = connection.execute("SELECT entry, hash FROM chain ORDER BY entry DESC LIMIT 1").fetchone()
        self.entry: int
        self._hash: bytes
        self.entry, self._hash = row if row is not None else anchor(connection)[:2]

    def append(self, kind: Kind, seq: int, values: Mapping[str, object]) -> None:
        """Add the entry that speaks for what is stored of part `seq`. Raises sqlite3.Error."""
        self._hash = link(self._hash, canonical(kind, values))
        self.entry += 1
        self._connection.execute("INSERT INTO chain VALUES (?, ?, ?, ?)", (self.entry, kind.value, seq, self._hash))
