"""The tables of records.db, and the columns that each entry of the chain covers."""

from __future__ import annotations

from inspectd.records.chain import Kind

SCHEMA_VERSION = 3
APPLICATION_ID = 0x494E5350  # "INSP": an SQLite file that is not ours is refused

TABLES = """
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
    brightness REAL,
    sharpness REAL,
    encoder INTEGER,
    reject TEXT,
    challenge TEXT,
    sent_id TEXT
);
CREATE INDEX parts_by_time ON parts (trigger_wall_ns);
CREATE INDEX parts_by_name ON parts (part_id);
CREATE TABLE images (
    seq INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT,
    deleted_wall_ns INTEGER
);
"""
CHAIN_TABLES = """
CREATE INDEX images_kept ON images (seq, size_bytes) WHERE deleted_wall_ns IS NULL;
CREATE TABLE late_scores (
    seq INTEGER PRIMARY KEY,
    part_score REAL,
    region_scores TEXT NOT NULL,
    scored_ns INTEGER NOT NULL
);
CREATE TABLE told_rejects (
    seq INTEGER PRIMARY KEY,
    reject TEXT NOT NULL,
    told_ns INTEGER NOT NULL
);
CREATE TABLE events (
    entry INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    wall_ns INTEGER NOT NULL,
    detail TEXT NOT NULL
);
CREATE TABLE chain (
    entry INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL
);
CREATE TABLE anchor (
    entry INTEGER NOT NULL,
    hash BLOB NOT NULL,
    max_seq INTEGER NOT NULL
);
"""
TABLE = {Kind.PART: "parts", Kind.LATE: "late_scores", Kind.TOLD: "told_rejects", Kind.IMAGE: "images"}
COLUMNS = {
    Kind.PART: (
        "seq, station, part_id, outcome, reason, detail, action, part_score, region_scores, part_threshold, "
        "region_thresholds, bundle_hash, trigger_wall_ns, trigger_ns, captured_ns, located_ns, scored_ns, verdict_ns, "
        "deadline_ns, label, source, pose_x_px, pose_y_px, pose_angle_deg, pose_scale, brightness, sharpness, encoder, "
        "reject, challenge, sent_id"
    ),
    Kind.LATE: "seq, part_score, region_scores, scored_ns",
    Kind.TOLD: "seq, reject, told_ns",
    Kind.IMAGE: "seq, path, size_bytes, sha256",
}
NOTE_COLUMNS = "first_seq, last_seq, wall_ns, detail"

_READ = {
    **{name: f"parts.{name}" for name in COLUMNS[Kind.PART].split(", ")},
    "late_part_score": "late_scores.part_score",
    "late_region_scores": "late_scores.region_scores",
    "late_scored_ns": "late_scores.scored_ns",
    "told_reject": "told_rejects.reject",
    "told_ns": "told_rejects.told_ns",
    "image_path": "images.path",
}
NAMES = tuple(_READ)
SELECT_PARTS = (
    f"SELECT {', '.join(_READ.values())} FROM parts "  # noqa: S608 - column names of our own
    "LEFT JOIN late_scores ON late_scores.seq = parts.seq LEFT JOIN told_rejects ON told_rejects.seq = parts.seq "
    "LEFT JOIN images ON images.seq = parts.seq AND images.deleted_wall_ns IS NULL"
)
