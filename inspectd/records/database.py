"""The records database: how it is opened, made, checked and told from damage."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from inspectd.errors import StorageError
from inspectd.records import migration
from inspectd.records.tables import APPLICATION_ID, CHAIN_TABLES, SCHEMA_VERSION, TABLES

FULL_CHECK_BYTES = 64 * 2**20
LEAST_FREE_BYTES = 2**20
DATABASE_NAME = "records.db"

_VERSIONS = "an older one is brought up to date by `inspectd run`; move a newer one away"


class DamagedError(StorageError):
    """The file is no database, or a damaged one: it can be set aside, and records begun anew."""


def open_for_writing(folder: Path) -> sqlite3.Connection:
    """Open or create `folder`/records.db; autocommit, usable in any one thread. Raises StorageError with one line."""
    path = folder / DATABASE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error
    return _accepted(connection, path, _prepare)


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a records.db, or the one in a station's folder, read-only. Raises StorageError with one line."""
    path = path / DATABASE_NAME if path.is_dir() else path
    if not path.is_file():
        raise StorageError(f"{path}: no records here; `inspectd run` writes them")
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=2.0
        )
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error
    return _accepted(connection, path, _check_kind)


def _accepted(
    connection: sqlite3.Connection, path: Path, check: Callable[[sqlite3.Connection, Path], None]
) -> sqlite3.Connection:
    """The connection, once `check` has passed; else it is closed. Raises StorageError with one line."""
    try:
        check(connection, path)
    except sqlite3.Error as error:
        connection.close()
        kind = DamagedError if is_damage(error) else StorageError
        raise kind(f"{path}: {error}; {remedy(error)}") from error
    except StorageError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _value(connection, "SELECT count(*) FROM sqlite_master"):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            f"BEGIN IMMEDIATE; {TABLES} {CHAIN_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
        )
    _check_application(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    version = _value(connection, "PRAGMA user_version")
    if version == 1:
        migration.from_version_1(connection)
    elif version == 2:
        migration.from_version_2(connection)
    _check_kind(connection, path)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 8388608")
    if path.stat().st_size <= FULL_CHECK_BYTES:
        verdict = _value(connection, "PRAGMA quick_check(1)")
        if verdict != "ok":
            raise DamagedError(f"{path}: is damaged ({' '.join(str(verdict).split())}); move it away and start again")


def _check_application(connection: sqlite3.Connection, path: Path) -> None:
    if _value(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StorageError(f"{path}: is not a records database of inspectd; move it away")


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    _check_application(connection, path)
    version = _value(connection, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise StorageError(f"{path}: has schema version {version}, this inspectd reads {SCHEMA_VERSION}; {_VERSIONS}")
    connection.execute("SELECT max(seq) FROM parts").fetchone()
    connection.execute("SELECT max(seq) FROM images").fetchone()


def _value(connection: sqlite3.Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def is_damage(error: Exception) -> bool:
    """Whether SQLite found the file itself damaged, or no database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def remedy(error: Exception) -> str:
    """What a person does about it."""
    text = str(error)
    if is_damage(error):
        return "the file is damaged: move it away and start again"
    if "locked" in text:
        return "another program holds it: close that program"
    if "full" in text:
        return "free space"
    return "check permissions and free space"


def last_seq(connection: sqlite3.Connection) -> int:
    """The largest recorded sequence number, 0 where there is none. Raises sqlite3.Error."""
    return int(_value(connection, "SELECT max(seq) FROM parts") or 0)


def check(folder: Path) -> None:
    """Raise StorageError where the station's records cannot be written or read, or the disk is full."""
    with closing(open_for_writing(folder)):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < LEAST_FREE_BYTES:
        raise StorageError(f"{folder}: the disk is full ({free_bytes} bytes left); free space")
