-- A database as version 1 of the schema left it.
PRAGMA application_id = 1229869904;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE images (
    seq INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL
);
INSERT INTO "images" VALUES(13,'images/2026-09-21/0000000003-REJECT.png',1);
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
INSERT INTO "parts" VALUES(10,'test','p10','PASS','within_limits','from version 1','accept',0.25,'[["body", 0.25]]',0.5,'[["body", 0.5]]','abababababababababababababababababababababababababababababababab',1790000000000000010,10,11,12,15,16,60,'good','cam/10',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "parts" VALUES(11,'test','p11','INVALID','late','from version 1','reject',NULL,'[]',0.5,'[["body", 0.5]]','abababababababababababababababababababababababababababababababab',1790000000000000011,10,11,12,15,16,60,'good','cam/11',NULL,NULL,NULL,NULL,0.75,'[["body", 0.5]]',99000000);
INSERT INTO "parts" VALUES(13,'test','p13','PASS','within_limits','from version 1','accept',0.25,'[["body", 0.25]]',0.5,'[["body", 0.5]]','abababababababababababababababababababababababababababababababab',1790000000000000013,10,11,12,15,16,60,'good','cam/13',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE INDEX parts_by_time ON parts (trigger_wall_ns);
CREATE INDEX parts_by_name ON parts (part_id);
COMMIT;
