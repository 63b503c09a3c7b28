"""A copy of a station's records at one moment, taken beside the running daemon without holding up its WAL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from inspectd.errors import StorageError, UsageError
from inspectd.records.chain import Kind
from inspectd.records.database import DATABASE_NAME, open_for_reading
from inspectd.records.tables import APPLICATION_ID, CHAIN_TABLES, COLUMNS, NOTE_COLUMNS, SCHEMA_VERSION, TABLE, TABLES

CHUNK = 1000
"""Entries in one read transaction: some milliseconds, after which the daemon's checkpoints get through again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was copied: how many parts, and the newest entry of the chain with its hash in hex."""

    parts: int
    head_entry: int
    head_hash: str


def snapshot(folder: Path, out: Path, advance: Callable[[int], None]) -> Snapshot:
    """Copy `folder`/records.db as it is now to `out`, one file, whole or not at all. Blocks for the disk.

    The copy can be opened, kept open and written to by any program. `advance` is told how many entries were copied.
    Raises UsageError where `out` is a database that a daemon writes, StorageError.
    """
    if out.name == DATABASE_NAME and (out.with_name("sequence").exists() or out.parent.resolve() == folder.resolve()):
        raise UsageError(f"{out}: is a station's own database; choose another file for the snapshot")
    open_for_reading(folder).close()  # says in one line what is wrong with it
    temporary = out.with_name(f".{out.name}.part")
    try:
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary.absolute().as_uri(), uri=True, isolation_level=None)) as copy:
            taken = _fill(copy, folder / DATABASE_NAME, advance)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, out)  # noqa: PTH105 - replaces
    except sqlite3.Error as error:
        raise StorageError(f"{out}: the snapshot cannot be taken: {error}") from error
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return taken


def _fill(copy: sqlite3.Connection, live: Path, advance: Callable[[int], None]) -> Snapshot:
    """Copy chunk by chunk; where retention overtakes, begin with what it left."""
    copy.execute("PRAGMA synchronous = OFF")  # nothing of it counts before it is whole
    copy.executescript(
        f"BEGIN; {TABLES} {CHAIN_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
    )
    copy.execute("ATTACH ? AS live", (f"{live.absolute().as_uri()}?mode=ro",))
    (head,) = copy.execute("SELECT coalesce(max(entry), 0) FROM live.chain").fetchone()
    at: int | None = None
    while at is None or at < head:
        before = at
        copy.execute("BEGIN")
        at = _copy_chunk(copy, at, head)
        copy.execute("COMMIT")
        advance(at - (before or 0))
        if at == before:  # nothing is left up to the head: retention took all of it
            break
    (parts,) = copy.execute("SELECT count(*) FROM main.parts").fetchone()
    newest = copy.execute("SELECT entry, hash FROM main.chain ORDER BY entry DESC LIMIT 1").fetchone()
    entry, found = newest or copy.execute("SELECT entry, hash FROM main.anchor").fetchone() or (0, b"")
    return Snapshot(parts, entry, found.hex())


def _copy_chunk(copy: sqlite3.Connection, at: int | None, head: int) -> int:
    """Copy the entries after `at` (None: from the first on) with what they speak for; returns the last one's number."""
    (begins,) = copy.execute("SELECT coalesce(max(entry), 0) FROM live.anchor").fetchone()
    if at is None or begins > at:
        for table in (*TABLE.values(), "events", "chain", "anchor"):
            copy.execute(f"DELETE FROM main.{table}")  # noqa: S608 - names of our own
        copy.execute("INSERT INTO main.anchor SELECT entry, hash, max_seq FROM live.anchor")
        at = begins
    span = (at, min(at + CHUNK, head))
    within = "entry > ? AND entry <= ?"
    for kind, table in TABLE.items():
        names = COLUMNS[kind] + (", deleted_wall_ns" if kind is Kind.IMAGE else "")
        stored = ", ".join(f"stored.{name}" for name in names.split(", "))
        copy.execute(
            f"INSERT INTO main.{table} ({names}) SELECT {stored} FROM live.chain AS chain "  # noqa: S608 - as above
            f"JOIN live.{table} AS stored ON stored.seq = chain.seq WHERE {within} AND chain.kind = ?",
            (*span, kind.value),
        )
    notes = f"entry, kind, {NOTE_COLUMNS}"
    copy.execute(f"INSERT INTO main.events ({notes}) SELECT {notes} FROM live.events WHERE {within}", span)  # noqa: S608
    copy.execute(f"INSERT INTO main.chain SELECT entry, kind, seq, hash FROM live.chain WHERE {within}", span)  # noqa: S608
    return span[1]
