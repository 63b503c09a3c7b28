"""What goes for its age where the wall clock cannot be trusted, and what becomes of images without a row."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from line_values import verdict
from recorder_desk import Context, Desk
from structlog.testing import capture_logs

from inspectd.health.meters import Count
from inspectd.messages import Record, StoredImage
from inspectd.records import recorder, sweep
from inspectd.records.chain import Kind
from inspectd.records.ledger import Note
from inspectd.records.reading import RecordReader
from inspectd.records.retention import NS_PER_DAY
from inspectd.records.verify import verify

KEEP_DAYS = 4
FOLDER = "images/2026-09-21"
SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Puts the wall clock so many days off."""
    right = time.time_ns

    def put(days: float) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: right() + round(days * NS_PER_DAY))

    return put


@pytest.fixture
def desk(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A recorder on an empty folder that keeps records for four days; the sweep does not pause."""
    monkeypatch.setattr(sweep, "PAUSE_S", 0.0)
    with closing(Desk(context, tmp_path, keep_days=KEEP_DAYS)) as made:
        made.connection.execute("PRAGMA busy_timeout = 0")
        yield made


def parts(*ages_days: float, first: int = 1) -> list[Record]:
    """Parts that were triggered so many days ago, by the wall clock of now."""
    now_ns = time.time_ns()
    return [
        Record(verdict=verdict(seq, wall_ns=now_ns - round(age * NS_PER_DAY)))
        for seq, age in enumerate(ages_days, first)
    ]


def kept(desk: Desk) -> list[int]:
    """The numbers that are left once retention has done what it does in a row."""
    desk.retention._next_s = 0.0
    while desk.retention.step():
        pass
    with RecordReader(desk.folder) as reader:
        return [part.verdict.seq for part in reader.all()]


def restarted(desk: Desk) -> None:
    """What a start makes anew."""
    desk.retention = desk.make_retention(2**30)


@pytest.mark.parametrize("days", [1, 365, 14 * 365])
def test_a_wall_clock_that_jumps_forward_deletes_nothing(desk: Desk, set_clock: SetClock, days: float) -> None:
    """However far, also once parts bear its time; it is said once; and once it is right again, ages count again."""
    desk.ledger.write(parts(3.5, 2.5, 1, 0))
    set_clock(days)
    desk.ledger.write(parts(0, 0, first=5))
    with capture_logs() as logged:
        assert kept(desk) == kept(desk) == [1, 2, 3, 4, 5, 6]
        set_clock(0)
        desk.ledger.write(parts(0, first=7))
        assert kept(desk) == [1, 2, 3, 4, 5, 6, 7]
    set_off, right_again = (line["event"] for line in logged)
    assert "the wall clock was set" in set_off
    assert "right again" in right_again


def test_ages_go_on_while_the_clock_is_only_corrected(desk: Desk, set_clock: SetClock) -> None:
    """Minutes are no reason to keep what is too old."""
    desk.ledger.write(parts(5, 2.5, 0))
    set_clock(0.02)
    assert kept(desk) == [2, 3]


def test_a_start_with_a_wrong_clock_deletes_nothing_until_its_own_records_came_of_age(
    desk: Desk, set_clock: SetClock
) -> None:
    """A year ahead from the start on, or a plant that was off for a year: the same to us; both keep all at first."""
    desk.ledger.write(parts(3.5, 1, 0))
    set_clock(365)
    restarted(desk)
    desk.ledger.write(parts(0, first=4))
    with capture_logs() as logged:
        assert kept(desk) == kept(desk) == [1, 2, 3, 4]
    assert ["no record is deleted for its age yet" in line["event"] for line in logged] == [True]
    restarted(desk)
    assert kept(desk) == [1, 2, 3, 4]
    set_clock(365 + KEEP_DAYS / 2 + 0.1)
    restarted(desk)
    assert kept(desk) == [4]


def test_keep_bytes_holds_whatever_the_clock_says(desk: Desk, set_clock: SetClock) -> None:
    """Where nothing goes for its age, the oldest images still go for their size."""
    desk.retention = desk.make_retention(2**20)
    desk.ledger.write([row for seq in range(1, 11) for row in with_image(desk, seq, size_bytes=2**18)])
    set_clock(365)
    assert kept(desk) == list(range(1, 11))
    assert desk.retention.used_bytes() <= 2**20


def test_parts_stamped_in_the_future_do_not_keep_those_behind_them(desk: Desk, set_clock: SetClock) -> None:
    """They go with the first part behind them that is too old, not before."""
    desk.ledger.write(parts(-3000, -3000, 3, 1, -3000, 0))
    assert kept(desk) == [1, 2, 3, 4, 5, 6]
    set_clock(1.5)
    restarted(desk)
    assert kept(desk) == [4, 5, 6]
    assert verify(desk.folder, lambda entries: None).problems == []


def with_image(desk: Desk, seq: int, *, size_bytes: int = 100) -> list[Record | StoredImage]:
    """A part and its image, which is on disk with one byte, whatever its row says."""
    path = f"{FOLDER}/{seq:010d}-REJECT.png"
    (desk.folder / FOLDER).mkdir(parents=True, exist_ok=True)
    (desk.folder / path).write_bytes(b"x")
    return [*parts(0, first=seq), StoredImage(seq=seq, path=path, size_bytes=size_bytes)]


def files(desk: Desk) -> list[str]:
    """The names of the images on disk."""
    return sorted(path.name for path in (desk.folder / "images").rglob("*.*"))


def test_an_image_whose_row_is_given_up_is_deleted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a lock keeps the rows out, no more images are on disk than rows wait in memory."""
    monkeypatch.setattr(recorder, "MOST_UNWRITTEN", 10)
    with closing(sqlite3.connect(desk.folder / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        desk.record(*(row for seq in range(1, 21) for row in with_image(desk, seq)))
        assert len(files(desk)) == 5
    desk.retry()
    assert files(desk) == [f"{seq:010d}-REJECT.png" for seq in range(16, 21)]
    assert desk.meters.counts()[Count.IMAGES_DROPPED] == 15
    assert verify(desk.folder, lambda entries: None, images=False).problems == []


def run_begins(desk: Desk, seq: int) -> None:
    """A run whose first number is `seq`."""
    desk.ledger.write([Note(Kind.START, seq, seq, "")])
    restarted(desk)


def test_images_without_a_row_are_taken_in_and_go_with_the_others(desk: Desk) -> None:
    """Those of earlier runs count in keep_bytes, and the oldest go first; none of this run is touched."""
    for seq in range(1, 61):
        with_image(desk, seq)
        (desk.folder / FOLDER / f"{seq:010d}-REJECT.png").write_bytes(b"x" * 50_000)
    desk.ledger.write([StoredImage(seq=7, path=f"{FOLDER}/0000000007-REJECT.png", size_bytes=50_000)])
    run_begins(desk, 51)
    before_bytes = desk.retention.used_bytes()
    for _ in range(10):
        desk.retention.step()
    assert desk.retention.used_bytes() - before_bytes >= 49 * 50_000
    assert len(files(desk)) == 60
    assert verify(desk.folder, lambda entries: None).problems == []
    desk.retention = desk.make_retention(100_000)  # a share in which not one of them has room
    kept(desk)
    assert files(desk) == [f"{seq:010d}-REJECT.png" for seq in range(51, 61)]


def test_remnants_of_a_kill_are_removed_and_files_of_others_stay(desk: Desk) -> None:
    """Half an image, and one that was marked as deleted and was still there, go; what is not ours is left alone."""
    desk.ledger.write([row for seq in (1, 2) for row in with_image(desk, seq)])
    desk.connection.execute("UPDATE images SET deleted_wall_ns = 1 WHERE seq = 1")
    for name in ("0000000003-PASS.part", "0000000009-PASS.part", "notes.txt", "12.png"):
        (desk.folder / FOLDER / name).write_bytes(b"x")
    run_begins(desk, 5)
    for _ in range(3):
        desk.retention.step()
    assert files(desk) == ["0000000002-REJECT.png", "0000000009-PASS.part", "12.png", "notes.txt"]


def test_the_sweep_goes_in_small_steps_and_comes_back_to_what_the_database_refused(desk: Desk) -> None:
    """A step looks at few files; those that a lock kept out are taken in after it."""
    for seq in range(1, 2 * sweep.FILES + 2):
        with_image(desk, seq)
    run_begins(desk, 1000)

    def taken_in() -> int:
        return int(desk.connection.execute("SELECT count(*) FROM images").fetchone()[0])

    desk.retention.step()
    assert taken_in() == sweep.FILES
    with closing(sqlite3.connect(desk.folder / "records.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            desk.retention.step()
    for expected in (2 * sweep.FILES, 2 * sweep.FILES + 1, 2 * sweep.FILES + 1):
        desk.retention.step()
        assert taken_in() == expected
