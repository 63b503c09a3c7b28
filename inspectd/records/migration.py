"""Records of an older schema brought up to date at the start of the daemon, in one transaction: all or nothing."""

from __future__ import annotations

import sqlite3
import time

import structlog

from inspectd.records.chain import GENESIS, Kind, Tail
from inspectd.records.numbers import Numbers
from inspectd.records.tables import CHAIN_TABLES, COLUMNS, NOTE_COLUMNS, TABLE

CHUNK = 1000
_NEW_COLUMNS = (
    ("parts", "brightness REAL"),
    ("parts", "sharpness REAL"),
    ("parts", "encoder INTEGER"),
    ("parts", "reject TEXT"),
    ("parts", "challenge TEXT"),
    ("parts", "sent_id TEXT"),
    ("images", "sha256 TEXT"),
    ("images", "deleted_wall_ns INTEGER"),
)
log = structlog.get_logger(__name__)


def from_version_1(connection: sqlite3.Connection) -> None:
    """Give version 1 its chain of hashes: the rows in order of their numbers. Raises sqlite3.Error, all as it was."""
    parts = connection.execute("SELECT count(*) FROM parts").fetchone()[0]
    log.warning("records of an older version are brought up to date, each row gets its hash", parts=parts)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] != 1:  # another process was quicker
            connection.execute("ROLLBACK")
            return
        for table, column in _NEW_COLUMNS:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        for statement in CHAIN_TABLES.split(";"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO late_scores SELECT seq, late_part_score, late_region_scores, late_scored_ns FROM parts "
            "WHERE late_scored_ns IS NOT NULL"
        )
        for column in ("late_part_score", "late_region_scores", "late_scored_ns"):
            connection.execute(f"ALTER TABLE parts DROP COLUMN {column}")
        _chain_all(connection)
        connection.execute("PRAGMA user_version = 3")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    log.info("records are up to date", parts=parts)


def from_version_2(connection: sqlite3.Connection) -> None:
    """Add what was sent as a part's name; hashes hold, because they leave out what is NULL. Raises sqlite3.Error."""
    connection.executescript(
        "BEGIN IMMEDIATE; ALTER TABLE parts ADD COLUMN sent_id TEXT; PRAGMA user_version = 3; COMMIT"
    )


def _chain_all(connection: sqlite3.Connection) -> None:
    """Parts, then late scores, then images; a number that is missing among them is noted as a gap of unknown cause."""
    first = connection.execute("SELECT min(seq) FROM parts").fetchone()[0] or 1
    connection.execute("INSERT INTO anchor VALUES (0, ?, ?)", (GENESIS, first - 1))
    tail = Tail(connection)
    numbers = Numbers()
    for kind, columns in COLUMNS.items():
        names, after = columns.split(", "), -1
        query = f"SELECT {columns} FROM {TABLE[kind]} WHERE seq > ? ORDER BY seq LIMIT {CHUNK}"  # noqa: S608 - our names
        while rows := connection.execute(query, (after,)).fetchall():
            for row in rows:
                tail.append(kind, row[0], dict(zip(names, row, strict=True)))
                if kind is Kind.PART:
                    numbers.add(row[0], row[0])
            after = rows[-1][0]
    for gap in numbers.missing(first, numbers.largest):
        note = (*gap, time.time_ns(), "missing before the records carried hashes; why is not known")
        tail.append(Kind.GAP, gap[0], dict(zip(NOTE_COLUMNS.split(", "), note, strict=True)))
        connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", (tail.entry, Kind.GAP.value, *note))
