"""What becomes of records whose database is locked, damaged, deleted or overfull: on real files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from line_values import verdict
from recorder_desk import Context, Desk

from inspectd.errors import StorageError
from inspectd.health.meters import Count
from inspectd.messages import LateScores, Record
from inspectd.records import ledger, opening, recorder
from inspectd.records.database import open_for_writing
from inspectd.records.ledger import Ledger
from inspectd.records.opening import Records
from inspectd.records.reading import RecordReader
from inspectd.records.retention import CHUNK, NS_PER_DAY
from inspectd.records.verify import verify


@pytest.fixture
def desk(context: Context, tmp_path: Path) -> Iterator[Desk]:
    """A recorder on an empty folder, that does not wait for locks."""
    with closing(Desk(context, tmp_path)) as made:
        made.connection.execute("PRAGMA busy_timeout = 0")
        yield made


def recorded(folder: Path) -> list[int]:
    """The numbers in the database."""
    with RecordReader(folder) as reader:
        return [part.verdict.seq for part in reader.all()]


def damage(path: Path) -> None:
    """Garbage over all but the header."""
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def rows(first: int, last: int) -> list[Record]:
    """Parts first..last."""
    return [Record(verdict=verdict(seq)) for seq in range(first, last + 1)]


def test_a_lock_held_by_another_program_delays_the_rows_and_loses_none(desk: Desk, tmp_path: Path) -> None:
    """While it lasts health says so; afterwards every row is there, and proved."""
    desk.record(*rows(1, 5))
    with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        desk.record(*rows(6, 9))
        assert "locked" in desk.meters.storage_faults()[0]
        assert recorded(tmp_path) == [1, 2, 3, 4, 5]
        assert desk.settled == [1, 2, 3, 4, 5]
    desk.retry()
    assert desk.meters.storage_faults() == []
    assert desk.settled == recorded(tmp_path) == list(range(1, 10))
    assert verify(tmp_path, lambda entries: None).problems == []


def test_rows_given_up_for_want_of_memory_are_noted_as_a_gap(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was announced and could not be kept is counted, and stands in the records as a gap with its reason."""
    monkeypatch.setattr(recorder, "MOST_UNWRITTEN", 10)
    with closing(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        desk.record(*rows(1, 25))
        assert desk.meters.counts()[Count.ROWS_LOST] == 15
    desk.retry()
    assert recorded(tmp_path) == list(range(16, 26))
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(1, 15)]
    assert "the disk refused" in report.gaps[0].why


def test_a_database_damaged_while_running_is_set_aside_and_the_rows_go_into_a_new_one(
    desk: Desk, tmp_path: Path
) -> None:
    """No row in hand is lost, the damaged file is kept, the gap names it, and health says so until the next start."""
    with RecordReader(tmp_path) as reader:
        desk.record(*rows(1, 400))
        desk.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        damage(tmp_path / "records.db")
        desk.connection.execute("PRAGMA shrink_memory")
        desk.record(*rows(401, 410))
        desk.retry()
        (kept,) = tmp_path.glob("damaged-*-records.db")
        assert recorded(tmp_path) == list(range(401, 411))
        assert reader.newest() == 410  # who had the old one open goes on with the new one
    assert desk.settled == list(range(1, 411))
    assert desk.meters.counts()[Count.ROWS_LOST] == 0
    assert "begun anew" in desk.meters.storage_faults()[0]
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(1, 400)]
    assert kept.name in report.gaps[0].why


@pytest.mark.parametrize("how", ["garbage", "truncated", "no database", "torn page"])
def test_a_start_on_a_damaged_database_sets_it_aside_and_numbers_go_on(tmp_path: Path, how: str) -> None:
    """The damaged file is kept under a name that says when, and the new one explains the numbers before it."""
    before = Records(tmp_path, sync_s=1, set_aside=True)
    before.ledger.write([Record(verdict=verdict(before.sequence.next())) for _ in range(400)])
    before.sequence.close()
    before.close()
    path = tmp_path / "records.db"
    data = path.read_bytes()
    broken = {
        "garbage": b"SQLite format 3\0" + b"\xff" * 5000,
        "truncated": data[: len(data) // 3],
        "no database": b"no database at all " * 1000,
        "torn page": data[:8192] + b"\xa5" * 4096 + data[12288:],
    }[how]
    path.write_bytes(broken)
    with pytest.raises(StorageError, match=r"records\.db"):
        Records(tmp_path, sync_s=1, set_aside=False)
    assert path.read_bytes() == broken
    after = Records(tmp_path, sync_s=1, set_aside=True)
    assert after.sequence.next() == 401
    after.ledger.write(rows(401, 401))
    after.sequence.close()
    after.close()
    (kept,) = tmp_path.glob("damaged-*-records.db")
    assert kept.read_bytes() == broken
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(1, 400)]


@pytest.mark.parametrize("names", [["records.db-wal"], ["records.db-wal", "records.db-shm"]])
def test_a_wal_deleted_while_running_costs_no_row(desk: Desk, tmp_path: Path, names: list[str]) -> None:
    """What was only in the WAL is saved from the open file, and writing goes on in the database that is there."""
    desk.record(*rows(1, 50))
    for name in names:
        (tmp_path / name).unlink()
    desk.record(*rows(51, 60))
    desk.ledger.sync(now=True)
    desk.record(*rows(61, 70))
    assert recorded(tmp_path) == list(range(1, 71))
    assert verify(tmp_path, lambda entries: None).problems == []
    assert not list(tmp_path.glob("damaged-*"))


def test_a_database_deleted_while_running_is_made_anew(desk: Desk, tmp_path: Path) -> None:
    """Rows written after the next sync stand in a new file under the old name, which says what it has not got."""
    desk.record(*rows(1, 5))
    for path in tmp_path.glob("records.db*"):
        path.unlink()
    desk.record(*rows(6, 7))
    desk.ledger.sync(now=True)
    desk.record(*rows(8, 9))
    assert recorded(tmp_path) == [8, 9]
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(1, 7)]


def test_a_wal_lost_at_rest_is_found_by_its_numbers(tmp_path: Path) -> None:
    """A WAL removed after a crash takes its rows along: a start notes the numbers that are gone."""
    crashed = Ledger(tmp_path)
    crashed.write(rows(1, 5))
    crashed.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    crashed.write(rows(6, 9))
    database = (tmp_path / "records.db").read_bytes()
    crashed.close()
    (tmp_path / "records.db").write_bytes(database)
    after = Records(tmp_path, sync_s=1, set_aside=True)
    after.sequence.go_on_after(9)
    after.ledger.explain_gaps(after.sequence.upcoming, "for a test")
    assert recorded(tmp_path) == [1, 2, 3, 4, 5]
    assert after.ledger.missing(10) == []
    after.sequence.close()
    after.close()


def test_a_huge_backlog_goes_in_small_steps_between_which_rows_are_written(context: Context, tmp_path: Path) -> None:
    """Retention takes at most a chunk in a transaction, and the recorder writes what came before it takes the next."""
    with closing(Desk(context, tmp_path, keep_days=1)) as desk:
        old_ns = time.time_ns() - 3 * NS_PER_DAY
        desk.ledger.write([Record(verdict=verdict(seq, wall_ns=old_ns)) for seq in range(1, 30 * CHUNK + 1)])
        desk.record(Record(verdict=verdict(30 * CHUNK + 1, wall_ns=old_ns + 9 * NS_PER_DAY // 4)))
        oldest = recorded(tmp_path)[0]
        for step in range(2, 31):
            now = verdict(30 * CHUNK + step, wall_ns=time.time_ns())
            desk.record(Record(verdict=now))
            numbers = recorded(tmp_path)
            assert numbers[0] == oldest + CHUNK
            assert numbers[-1] == now.seq
            oldest = numbers[0]
        assert verify(tmp_path, lambda entries: None).problems == []
        assert oldest == 30 * CHUNK + 1


NO_UTF8 = "parts/caf\udce9.png"  # what a file name becomes whose bytes are no UTF-8


def unstorable(seq: int) -> Record:
    """A part with a number that no column takes."""
    part = Record(verdict=verdict(seq))
    return replace(part, verdict=replace(part.verdict, encoder=1 << 70))


def test_text_that_is_no_utf8_is_recorded_readably(desk: Desk, tmp_path: Path) -> None:
    """A source with undecodable bytes is written with their values, and proved."""
    desk.record(Record(verdict=verdict(1), source=NO_UTF8), *rows(2, 3))
    with RecordReader(tmp_path) as reader:
        assert [part.source for part in reader.all()] == ["parts/caf\\udce9.png", "", ""]
    assert desk.meters.counts()[Count.ROWS_LOST] == 0
    assert verify(tmp_path, lambda entries: None).problems == []


def test_one_row_that_cannot_be_stored_stops_no_other(desk: Desk, tmp_path: Path) -> None:
    """It is counted and noted as a gap with its reason; what belongs to it and the rows around it are recorded."""
    scores = LateScores(seq=2, part_id="p2", part_score=0.5, region_scores=(), scored_ns=1 << 70)
    desk.ledger.write([*rows(1, 2), unstorable(3), *rows(4, 4)])
    assert recorded(tmp_path) == [1, 2, 4]
    for row in (scores, unstorable(5), *rows(6, 6)):
        desk.recorder._unwritten.append(row)
    desk.recorder.step()
    assert recorded(tmp_path) == [1, 2, 4, 6]
    counts = desk.meters.counts()
    assert (counts[Count.ROWS], counts[Count.ROWS_LOST]) == (1, 2)
    assert desk.settled == [5, 6]
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(3, 3), (5, 5)]
    assert "cannot be stored" in report.gaps[0].why


def test_a_second_word_of_late_scores_alone_is_refused_and_counted(desk: Desk) -> None:
    """No part is in the batch: the count of rows stays, and the recorder goes on."""
    scores = LateScores(seq=1, part_id="p1", part_score=0.5, region_scores=(), scored_ns=1)
    desk.record(*rows(1, 1), scores)
    desk.record(scores)
    desk.record(*rows(2, 2))
    counts = desk.meters.counts()
    assert (counts[Count.ROWS], counts[Count.ROWS_LOST]) == (2, 1)


@pytest.mark.parametrize("way", ["text", "number"])
def test_a_start_after_a_row_that_cannot_be_stored_is_a_start_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What the journal has of it goes into the database, or is noted as a gap, and the next start does not find it."""
    odd = Record(verdict=verdict(2), source=NO_UTF8) if way == "text" else unstorable(2)
    found = [Record(verdict=verdict(1)), odd, Record(verdict=verdict(3))]
    monkeypatch.setattr(opening, "replay", lambda folder: found)
    after = Records(tmp_path, sync_s=1, set_aside=True)
    after.sequence.close()
    after.close()
    assert recorded(tmp_path) == ([1, 2, 3] if way == "text" else [1, 3])
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == ([] if way == "text" else [(2, 2)])


class Refusing:
    """An `open_for_writing` that a full disk refuses as often as it is told to."""

    def __init__(self, times: int) -> None:
        self._times = times

    def __call__(self, folder: Path) -> sqlite3.Connection:
        """Refuse, or open."""
        self._times -= 1
        if self._times >= 0:
            raise StorageError(f"{folder}: unable to open database file")
        return open_for_writing(folder)


def test_a_database_that_cannot_be_begun_anew_at_once_is_begun_later(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged one is set aside and the disk refuses the next: rows wait until it does not, and none is lost."""
    desk.record(*rows(1, 400))
    desk.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    damage(tmp_path / "records.db")
    desk.connection.execute("PRAGMA shrink_memory")
    monkeypatch.setattr(ledger, "open_for_writing", Refusing(2))
    desk.record(*rows(401, 410))
    for _ in range(3):
        desk.retry()
    assert recorded(tmp_path) == list(range(401, 411))
    assert "begun anew" in desk.meters.storage_faults()[0]
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(1, 400)]
    assert "damaged" in report.gaps[0].why
    assert len(list(tmp_path.glob("damaged-*-records.db"))) == 1


@pytest.mark.parametrize("times", [1, 3])
def test_a_deleted_database_that_cannot_be_made_at_once_is_made_later(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Also where no row comes meanwhile; the new one says what it has not got."""
    desk.record(*rows(1, 5))
    for path in tmp_path.glob("records.db*"):
        path.unlink()
    monkeypatch.setattr(ledger, "open_for_writing", Refusing(times))
    desk.ledger._sync_s = 0.0
    desk.retry()
    assert "unable to open" in desk.meters.storage_faults()[0]
    desk.recorder._retry_s = 0.0
    desk.record(*rows(6, 7))
    for _ in range(3):
        desk.retry()
    assert recorded(tmp_path) == [6, 7]
    (fault,) = desk.meters.storage_faults()  # what is over is the refusal; that somebody removes records is not
    assert "unable to open" not in fault
    assert "removed by another program" in fault
    report = verify(tmp_path, lambda entries: None)
    assert report.problems == []
    assert [(gap.first, gap.last) for gap in report.gaps] == [(1, 5)]
