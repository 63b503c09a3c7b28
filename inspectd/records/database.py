"""The records database: its tables, how it is opened and checked, and how a record becomes a row and back."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspectd.errors import StorageError
from inspectd.messages import Action, LateScores, Outcome, Pose, Reason, Record, Thresholds, Verdict

SCHEMA_VERSION = 1
APPLICATION_ID = 0x494E5350  # "INSP": an SQLite file that is not ours is refused
FULL_CHECK_BYTES = 64 * 2**20
LEAST_FREE_BYTES = 2**20
DATABASE_NAME = "records.db"

_TABLES = """
CREATE TABLE parts (
    seq INTEGER PRIMARY KEY,
    station TEXT NOT NULL,
    part_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    action TEXT NOT NULL,
    part_score REAL,
    region_scores TEXT NOT NULL,
    part_threshold REAL,
    region_thresholds TEXT NOT NULL,
    bundle_hash TEXT NOT NULL,
    trigger_wall_ns INTEGER NOT NULL,
    trigger_ns INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL,
    located_ns INTEGER NOT NULL,
    scored_ns INTEGER NOT NULL,
    verdict_ns INTEGER NOT NULL,
    deadline_ns INTEGER NOT NULL,
    label TEXT NOT NULL,
    source TEXT NOT NULL,
    pose_x_px REAL,
    pose_y_px REAL,
    pose_angle_deg REAL,
    pose_scale REAL,
    late_part_score REAL,
    late_region_scores TEXT,
    late_scored_ns INTEGER
);
CREATE INDEX parts_by_time ON parts (trigger_wall_ns);
CREATE INDEX parts_by_name ON parts (part_id);
CREATE TABLE images (
    seq INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL
);
"""
COLUMNS = (
    "seq, station, part_id, outcome, reason, detail, action, part_score, region_scores, part_threshold, "
    "region_thresholds, bundle_hash, trigger_wall_ns, trigger_ns, captured_ns, located_ns, scored_ns, verdict_ns, "
    "deadline_ns, label, source, pose_x_px, pose_y_px, pose_angle_deg, pose_scale"
)
LATE_COLUMNS = "late_part_score, late_region_scores, late_scored_ns"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part as it was recorded. `image` is a path relative to the station's folder, or None where none was kept."""

    verdict: Verdict
    pose: Pose | None
    source: str
    late: LateScores | None
    image: str | None


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
        raise StorageError(f"{path}: {error}; {_remedy(error)}") from error
    except StorageError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _value(connection, "SELECT count(*) FROM sqlite_master"):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
        )
    _check_kind(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 8388608")
    if path.stat().st_size <= FULL_CHECK_BYTES:
        verdict = _value(connection, "PRAGMA quick_check(1)")
        if verdict != "ok":
            raise StorageError(f"{path}: is damaged ({' '.join(str(verdict).split())}); move it away and start again")


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    if _value(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StorageError(f"{path}: is not a records database of inspectd; move it away")
    version = _value(connection, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise StorageError(f"{path}: has schema version {version}, this inspectd reads {SCHEMA_VERSION}; move it away")
    connection.execute("SELECT max(seq) FROM parts").fetchone()
    connection.execute("SELECT max(seq) FROM images").fetchone()


def _value(connection: sqlite3.Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def _remedy(error: sqlite3.Error) -> str:
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return "the file is damaged: move it away and start again"
    if "full" in text:
        return "free space"
    return "check permissions and free space"


def to_row(record: Record) -> tuple[object, ...]:
    """Return the values of COLUMNS."""
    verdict, pose = record.verdict, record.pose
    return (
        verdict.seq,
        verdict.station,
        verdict.part_id,
        verdict.outcome.value,
        verdict.reason.value,
        verdict.detail,
        verdict.action.value,
        verdict.part_score,
        scores_to_json(verdict.region_scores),
        verdict.thresholds.part,
        scores_to_json(verdict.thresholds.regions),
        verdict.bundle_hash,
        verdict.trigger_wall_ns,
        verdict.trigger_ns,
        verdict.captured_ns,
        verdict.located_ns,
        verdict.scored_ns,
        verdict.verdict_ns,
        verdict.deadline_ns,
        verdict.label,
        record.source,
        *((None,) * 4 if pose is None else (pose.x_px, pose.y_px, pose.angle_deg, pose.scale)),
    )


def from_row(row: tuple[Any, ...]) -> StoredPart:
    """Read COLUMNS + LATE_COLUMNS + the image's path. Raises StorageError for values that cannot be."""
    try:
        verdict = Verdict(
            seq=row[0],
            station=row[1],
            part_id=row[2],
            outcome=Outcome(row[3]),
            reason=Reason(row[4]),
            detail=row[5],
            action=Action(row[6]),
            part_score=row[7],
            region_scores=scores_from_json(row[8]),
            thresholds=Thresholds(part=_number(row[9]), regions=scores_from_json(row[10])),
            bundle_hash=row[11],
            trigger_wall_ns=row[12],
            trigger_ns=row[13],
            captured_ns=row[14],
            located_ns=row[15],
            scored_ns=row[16],
            verdict_ns=row[17],
            deadline_ns=row[18],
            label=row[19],
        )
        pose = None if row[21] is None else Pose(x_px=row[21], y_px=row[22], angle_deg=row[23], scale=row[24])
        late = None
        if row[27] is not None:
            late = LateScores(
                seq=row[0],
                part_id=row[2],
                part_score=_number(row[25]),
                region_scores=scores_from_json(row[26]),
                scored_ns=row[27],
            )
    except (ValueError, TypeError) as error:
        raise StorageError(f"record {row[0]} cannot be read: {error}") from error
    return StoredPart(verdict=verdict, pose=pose, source=row[20], late=late, image=row[28])


def scores_to_json(scores: tuple[tuple[str, float], ...]) -> str:
    """[[name, number or null], ...]"""
    return json.dumps([[name, score if math.isfinite(score) else None] for name, score in scores])


def scores_from_json(text: str) -> tuple[tuple[str, float], ...]:
    """What `scores_to_json` wrote. Raises ValueError or TypeError."""
    return tuple((str(name), _number(score)) for name, score in json.loads(text))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def last_seq(connection: sqlite3.Connection) -> int:
    """The largest recorded sequence number, 0 where there is none. Raises sqlite3.Error."""
    return int(_value(connection, "SELECT max(seq) FROM parts") or 0)


def check(folder: Path) -> None:
    """Raise StorageError where the station's records cannot be written or read, or the disk is full."""
    with closing(open_for_writing(folder)):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < LEAST_FREE_BYTES:
        raise StorageError(f"{folder}: the disk is full ({free_bytes} bytes left); free space")
