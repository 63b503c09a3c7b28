"""Proof of the records: what was changed, removed or added behind the daemon's back is found, on real databases."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from line_values import MS, settings, verdict
from recorder_desk import Context, Desk

from inspectd.__main__ import main
from inspectd.messages import LateScores, Outcome, Record, StoredImage
from inspectd.records.chain import Kind
from inspectd.records.database import open_for_writing
from inspectd.records.images import ImageKeeper
from inspectd.records.ledger import Ledger, Note
from inspectd.records.opening import Records
from inspectd.records.reading import RecordReader
from inspectd.records.retention import CHUNK
from inspectd.records.tables import COLUMNS
from inspectd.records.verify import Report, verify

V1 = Path(__file__).parent / "records_v1.sql"


def proved(folder: Path, **options: object) -> Report:
    """Verify, without a word on how far it is."""
    return verify(folder, lambda entries: None, **options)  # type: ignore[arg-type]


def kinds(report: Report) -> set[str]:
    """What is wrong."""
    return {problem.kind for problem in report.problems}


@pytest.fixture
def folder(tmp_path: Path, context: Context) -> Path:
    """Thirty parts with an image, late scores and a gap, cleanly closed by a daemon."""
    records = Records(tmp_path, sync_s=1, set_aside=True)
    for _ in range(30):
        records.sequence.next()
    image = np.full((8, 8, 3), 7, np.uint8)
    with closing(Desk(context, tmp_path)) as desk:
        keeper = ImageKeeper(tmp_path, inbox=desk.inbox, rows=desk.rows, meters=desk.meters)
        stored = keeper.write(verdict(3, Outcome.REJECT), image)
        records.ledger.write([Record(verdict=verdict(seq), source=f"s{seq}") for seq in range(1, 20)])
        late = LateScores(
            seq=5, part_id="p5", part_score=float("nan"), region_scores=(("body", 0.5),), scored_ns=9 * MS
        )
        records.ledger.write([stored, late, Note(Kind.GAP, 20, 21, "for a test")])
        records.ledger.write([Record(verdict=verdict(seq, Outcome.INVALID)) for seq in (23, 22, *range(24, 31))])
    records.sequence.close()
    records.close()
    return tmp_path


def tamper(folder: Path, statement: str) -> None:
    """Change the database as another program would."""
    with closing(sqlite3.connect(folder / "records.db", isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount > 0


def test_records_as_they_were_written_are_proved(folder: Path) -> None:
    """Nothing is wrong, and the report says what there is: parts, image, gap with its reason, clean stop, head."""
    report = proved(folder)
    assert report.problems == []
    assert (report.parts, report.images, report.first_seq, report.last_seq) == (28, 1, 1, 30)
    assert [(gap.first, gap.last, gap.why) for gap in report.gaps] == [(20, 21, "for a test")]
    assert report.stopped
    assert proved(folder, head=(report.head_entry, report.head_hash)).problems == []


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE parts SET outcome = 'PASS' WHERE seq = 22", "changed"),
        ("UPDATE parts SET part_score = part_score + 1e-12 WHERE seq = 4", "changed"),
        ("UPDATE parts SET part_threshold = 0.9 WHERE seq = 4", "changed"),
        ("UPDATE late_scores SET region_scores = '[]'", "changed"),
        ("UPDATE images SET path = 'images/other.png'", "changed"),
        ("UPDATE events SET last_seq = 25 WHERE kind = 'gap'", "changed"),
        ("DELETE FROM parts WHERE seq = 7", "removed"),
        ("DELETE FROM chain WHERE kind = 'part' AND seq = 7", "chain"),
        ("DELETE FROM chain WHERE kind = 'part' AND seq = 7", "missing"),
        ("DELETE FROM events WHERE kind = 'gap'", "missing"),
        ("UPDATE chain SET hash = zeroblob(32) WHERE entry = 9", "changed"),
        ("INSERT INTO late_scores SELECT 999, part_score, region_scores, scored_ns FROM late_scores", "added"),
    ],
)
def test_what_was_tampered_with_is_found(folder: Path, statement: str, kind: str) -> None:
    """Each single change shows as what it is."""
    tamper(folder, statement)
    assert kind in kinds(proved(folder))


@pytest.mark.parametrize("column", COLUMNS[Kind.PART].split(", ")[1:])
def test_every_column_of_a_part_is_covered_by_its_hash(folder: Path, column: str) -> None:
    """Whatever is changed in a row, in any column, shows."""
    other = f"CASE typeof({column}) WHEN 'text' THEN {column} || 'x' ELSE coalesce({column}, 0) + 1 END"
    tamper(folder, f"UPDATE parts SET {column} = {other} WHERE seq = 4")  # noqa: S608 - our names
    assert [(problem.kind, problem.first) for problem in proved(folder).problems] == [("changed", 4)]


def test_the_newest_records_cannot_be_cut_off_after_a_clean_stop(folder: Path) -> None:
    """Rows and entries removed from the end, with the stop put back: the numbers that were given out tell."""
    tamper(folder, "DELETE FROM parts WHERE seq > 25")
    tamper(folder, "DELETE FROM chain WHERE kind = 'part' AND seq > 25 OR kind = 'stop'")
    tamper(folder, "DELETE FROM events WHERE kind = 'stop'")
    with closing(Ledger(folder)) as ledger:
        ledger.write([Note(Kind.STOP, 26, 26, "")])
    report = proved(folder)
    assert [(problem.kind, problem.first, problem.last) for problem in report.problems] == [("missing", 26, 30)]


def test_a_history_written_anew_does_not_have_the_head_that_was_noted(folder: Path) -> None:
    """Whoever rewrites all hashes is found by the head that somebody noted before."""
    before = proved(folder)
    tamper(folder, "UPDATE parts SET outcome = 'PASS', reason = 'within_limits' WHERE seq = 22")
    rows: list[Record] = []
    with RecordReader(folder) as reader:
        rows += [Record(verdict=part.verdict, source=part.source) for part in reader.all()]
    (folder / "records.db").unlink()
    with closing(Ledger(folder)) as forged:
        forged.write([Note(Kind.START, 1, 1, ""), *rows[:19], Note(Kind.GAP, 20, 21, "for a test"), *rows[19:]])
    assert kinds(proved(folder)) == set()
    assert kinds(proved(folder, head=(before.head_entry - 3, before.head_hash))) == {"chain"}


def test_an_image_that_was_changed_or_removed_is_found(folder: Path) -> None:
    """One byte of the file is enough; --skip-images does not look."""
    (image,) = (folder / "images").rglob("*.png")
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    assert kinds(proved(folder)) == {"image_changed"}
    image.unlink()
    assert kinds(proved(folder)) == {"image_missing"}
    assert kinds(proved(folder, images=False)) == set()


def test_what_retention_leaves_is_proved(context: Context, tmp_path: Path) -> None:
    """Images and the oldest rows deleted in turn: what is left still hangs on the hash of the last one that went."""
    with closing(Desk(context, tmp_path, keep_bytes=2**20)) as desk:
        rows: list[Record | StoredImage] = []
        for seq in range(1, 3 * CHUNK):
            path = f"images/{seq}.png"
            (tmp_path / "images").mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(b"x")
            rows.append(Record(verdict=verdict(seq, wall_ns=time.time_ns()), source="x" * 3000))
            rows.append(StoredImage(seq=seq, path=path, size_bytes=1, sha256=hashlib.sha256(b"x").hexdigest()))
        desk.ledger.write(rows)
        assert proved(tmp_path).images == 3 * CHUNK - 1
        steps = 0
        while desk.retention.step():
            steps += 1
            report = proved(tmp_path)
            assert report.problems == []
        assert steps > 3
        assert report.deleted_to_seq > 0
        assert report.first_seq == report.deleted_to_seq + 1
        assert desk.ledger.missing(3 * CHUNK) == []


def test_verify_reads_while_rows_are_written(context: Context, tmp_path: Path) -> None:
    """A database that grows and shrinks under the verifier is still proved, and the writer is not held up."""
    with closing(Desk(context, tmp_path)) as desk:
        desk.ledger.write([Record(verdict=verdict(seq)) for seq in range(1, 2501)])
        grown: list[int] = []

        def meanwhile(entries: int) -> None:
            if len(grown) < 3:
                grown.append(2501 + len(grown))
                desk.ledger.write([Record(verdict=verdict(grown[-1]))])
                desk.retention._delete_entries(desk.retention._oldest())

        report = verify(tmp_path, meanwhile)
        assert report.problems == []
        assert report.last_seq == 2503


def test_records_of_version_1_get_their_hashes(tmp_path: Path) -> None:
    """A database of the version before is brought up to date whole: rows, late scores and images, gaps explained."""
    old = tmp_path / "old"
    old.mkdir()
    with closing(sqlite3.connect(old / "records.db")) as connection:
        connection.executescript(V1.read_text(encoding="utf-8"))
    image = old / "images/2026-09-21/0000000003-REJECT.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    open_for_writing(old).close()
    report = proved(old)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(12, 12)]
    assert report.parts == 3
    with RecordReader(old) as reader:
        parts = list(reader.all())
    assert [part.verdict.seq for part in parts] == [10, 11, 13]
    assert parts[1].late is not None
    assert parts[1].late.part_score == 0.75
    tamper(old, "UPDATE parts SET label = 'x' WHERE seq = 13")
    assert kinds(proved(old)) == {"changed"}


def test_a_migration_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """With an error half-way, version 1 stays version 1, and is brought up to date the next time."""
    path = tmp_path / "records.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(V1.read_text(encoding="utf-8"))
        connection.execute("CREATE TABLE chain (in_the_way)")
    with pytest.raises(Exception, match="chain already exists"):
        open_for_writing(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(late_part_score) FROM parts").fetchone() == (1,)
        connection.execute("DROP TABLE chain")
    open_for_writing(tmp_path).close()
    assert proved(tmp_path, images=False).problems == []


def test_the_command_says_proved_or_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 and `proved`, or 15 and a line for each problem; --json says the same."""
    station = tmp_path / "test.yaml"
    station.write_text(yaml.safe_dump(settings(tmp_path / "here")))
    shutil.copytree(folder, tmp_path / "here/records/test", ignore=shutil.ignore_patterns("here", "*.yaml"))
    command = ["records", "verify", "--station", str(station)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "proved"
    head = next(line.removeprefix("head ") for line in out.splitlines() if line.startswith("head "))
    assert main([*command, "--head", head]) == 0
    tamper(tmp_path / "here/records/test", "DELETE FROM parts WHERE seq = 7")
    capsys.readouterr()
    assert main(command) == 15
    assert "PROBLEM the record of part 7 was removed" in capsys.readouterr().out
    assert main([*command, "--json"]) == 15
    report = json.loads(capsys.readouterr().out)
    assert (report["proved"], report["problems"][0]["kind"]) == (False, "removed")
