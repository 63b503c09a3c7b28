"""Records: rows, images, retention, numbers. Real files, a real database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from line_values import MS, verdict
from recorder_desk import Context, Desk

from inspectd.errors import StorageError
from inspectd.health.meters import Count, Meters
from inspectd.messages import LateScores, Outcome, Pose, Reason, Record, StoredImage
from inspectd.records.database import open_for_writing
from inspectd.records.images import ImageKeeper, ImagePolicy
from inspectd.records.reading import RecordReader
from inspectd.records.recorder import MOST_UNWRITTEN
from inspectd.records.retention import CHUNK, NS_PER_DAY
from inspectd.records.sequence import BLOCK, Sequence
from inspectd.wire.sockets import pull, push, send

POSE = Pose(x_px=120.5, y_px=99.25, angle_deg=-3.5, scale=1.25)


@pytest.fixture
def desk(context: Context, tmp_path: Path) -> Iterator[Desk]:
    """A recorder on an empty folder."""
    with closing(Desk(context, tmp_path)) as made:
        yield made


def test_a_record_comes_back_as_it_was(desk: Desk) -> None:
    """Verdict, pose and source are read back equal."""
    record = Record(verdict=verdict(5, Outcome.REJECT), pose=POSE, source="a.png")
    desk.record(record)
    with RecordReader(desk.folder) as reader:
        (stored,) = reader.last(1)
    assert stored.verdict == record.verdict
    assert (stored.pose, stored.source, stored.late, stored.image) == (POSE, "a.png", None, None)


def test_late_scores_stand_beside_the_verdict(desk: Desk) -> None:
    """Late scores are stored in the part's row and change nothing of its verdict."""
    late = LateScores(seq=5, part_id="p5", part_score=0.75, region_scores=(("body", 0.5),), scored_ns=99 * MS)
    desk.record(Record(verdict=verdict(5, Outcome.INVALID)), late)
    with RecordReader(desk.folder) as reader:
        (stored,) = reader.last(1)
    assert stored.late == late
    assert stored.verdict == verdict(5, Outcome.INVALID)


def test_records_are_found_by_number(desk: Desk) -> None:
    """Ranges, the newest ones, and all in chunks, always by rising number."""
    desk.record(*(Record(verdict=verdict(seq)) for seq in (9, 3, 7, 5)))
    with RecordReader(desk.folder) as reader:
        assert [part.verdict.seq for part in reader.between(4, 9, 2)] == [5, 7]
        assert [part.verdict.seq for part in reader.last(3)] == [5, 7, 9]
        assert [part.verdict.seq for part in reader.all(chunk=3)] == [3, 5, 7, 9]
        assert reader.newest() == 9


def test_a_number_that_exists_is_never_overwritten(desk: Desk) -> None:
    """The older record stays, and the loss of the newer one is counted."""
    desk.record(Record(verdict=verdict(5)))
    desk.record(Record(verdict=verdict(5, Outcome.REJECT)))
    with RecordReader(desk.folder) as reader:
        assert reader.last(1)[0].verdict.outcome is Outcome.PASS
    assert desk.meters.counts()[Count.ROWS_LOST] == 1


def test_what_the_disk_refuses_waits_and_is_written_later(desk: Desk) -> None:
    """With the disk full nothing recorded is lost, the fault shows, and the waiting rows follow once there is room."""
    desk.record(Record(verdict=verdict(1)))
    pages = desk.connection.execute("PRAGMA page_count").fetchone()[0]
    desk.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    big = "x" * 3000
    desk.record(*(Record(verdict=verdict(seq), source=big) for seq in range(2, 40)))
    assert desk.meters.storage_faults()
    assert desk.meters.counts()[Count.STORAGE_FAULTS] == 1
    with RecordReader(desk.folder) as reader:
        assert [part.verdict.seq for part in reader.all()] == [1]
    desk.connection.execute("PRAGMA max_page_count = 1000000").fetchone()
    desk.recorder._retry_s = 0.0
    desk.recorder.step()
    assert desk.meters.storage_faults() == []
    with RecordReader(desk.folder) as reader:
        assert [part.verdict.seq for part in reader.all()] == list(range(1, 40))
    assert desk.meters.counts()[Count.ROWS_LOST] == 0


def test_memory_is_bounded_while_the_disk_refuses(desk: Desk) -> None:
    """Beyond the limit the oldest waiting rows are given up, and counted."""
    record = Record(verdict=verdict(1))
    desk.recorder._retry_s = time.monotonic() + 1000
    desk.recorder._unwritten.extend([record] * (MOST_UNWRITTEN + 3))
    desk.recorder.step()
    assert len(desk.recorder._unwritten) == MOST_UNWRITTEN
    assert desk.meters.counts()[Count.ROWS_LOST] == 3


def test_what_is_too_old_goes(context: Context, tmp_path: Path) -> None:
    """Records and their images older than keep_days are deleted, younger ones stay."""
    with closing(Desk(context, tmp_path, keep_days=2)) as desk:
        now_ns = time.time_ns()
        old = tmp_path / "images/2020-01-01/1.png"
        old.parent.mkdir(parents=True)
        old.write_bytes(b"x" * 100)
        desk.record(
            Record(verdict=verdict(1, wall_ns=now_ns - 3 * NS_PER_DAY)),
            StoredImage(seq=1, path="images/2020-01-01/1.png", size_bytes=100),
            Record(verdict=verdict(2, wall_ns=now_ns - NS_PER_DAY)),
        )
        desk.retention.step()
        with RecordReader(tmp_path) as reader:
            assert [part.verdict.seq for part in reader.all()] == [2]
        assert not old.parent.exists()


def test_what_is_too_much_goes_images_first_oldest_first(context: Context, tmp_path: Path) -> None:
    """Over keep_bytes the oldest images go, a chunk at a time, until all fits; the rows stay."""
    with closing(Desk(context, tmp_path, keep_bytes=2**20)) as desk:
        count = CHUNK + 50
        (tmp_path / "images/day").mkdir(parents=True)
        rows: list[Record | StoredImage] = []
        for seq in range(1, count + 1):
            path = f"images/day/{seq}.png"
            (tmp_path / path).write_bytes(b"x")
            rows += [
                Record(verdict=verdict(seq, wall_ns=time.time_ns())),
                StoredImage(seq=seq, path=path, size_bytes=10_000),
            ]
        desk.record(*rows)
        while desk.retention.step():
            pass
        assert desk.retention.used_bytes() <= 2**20
        with RecordReader(tmp_path) as reader:
            stored = list(reader.all())
        assert len(stored) == count
        assert stored[0].image is None
        assert stored[-1].image is not None
        assert (tmp_path / str(stored[-1].image)).is_file()
        assert not (tmp_path / "images/day/1.png").exists()


def test_rows_go_where_images_are_not_enough(context: Context, tmp_path: Path) -> None:
    """With no image left, the oldest rows go until the database fits."""
    with closing(Desk(context, tmp_path, keep_bytes=2**20)) as desk:
        for start in range(1, 2001, 500):
            desk.record(*(Record(verdict=verdict(seq, wall_ns=time.time_ns())) for seq in range(start, start + 500)))
        while desk.retention.step():
            pass
        assert desk.retention.used_bytes() <= 2**20
        with RecordReader(tmp_path) as reader:
            left = [part.verdict.seq for part in reader.all()]
        assert left[-1] == 2000
        assert left == list(range(left[0], 2001))


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_corrupt_database_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    """A file that is no database, or a damaged one, is refused with exit code 8, and left as it is."""
    path = tmp_path / "records.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"^[^\n]*records\.db[^\n]*$") as caught:
        open_for_writing(tmp_path)
    assert caught.value.exit_code == 8
    assert path.read_bytes() == content


def test_a_database_with_a_torn_page_is_refused(desk: Desk, context: Context, tmp_path: Path) -> None:
    """Damage in the middle of a real database is found at the start."""
    desk.record(*(Record(verdict=verdict(seq)) for seq in range(1, 400)))
    desk.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    desk.connection.close()
    path = tmp_path / "records.db"
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 4] = b"\xa5" * 4096
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        open_for_writing(tmp_path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """A valid SQLite file that is not ours is not written to."""
    with closing(sqlite3.connect(tmp_path / "records.db")) as other:
        other.execute("CREATE TABLE parts (seq)")
    with pytest.raises(StorageError, match="not a records database"):
        open_for_writing(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    """Records of a newer version are not touched."""
    open_for_writing(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "records.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="schema version 99"):
        open_for_writing(tmp_path)


def test_reading_where_there_is_nothing_says_so(tmp_path: Path) -> None:
    """No records is one line, and no file appears."""
    with pytest.raises(StorageError, match="no records here"):
        RecordReader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_images_are_kept_of_what_did_not_pass_and_of_each_nth_other() -> None:
    """Every rejected and invalid part, the first passed or dropped one and each n-th after it; with 0, none."""
    policy = ImagePolicy(3)
    assert [policy(verdict(seq)) for seq in range(7)] == [True, False, False, True, False, False, True]
    assert policy(verdict(8, Outcome.REJECT))
    overload = replace(verdict(9, Outcome.INVALID), reason=Reason.OVERLOAD)
    assert [policy(overload) for _ in range(3)] == [False, False, True]
    none = ImagePolicy(0)
    assert not none(overload)
    assert not any(none(verdict(seq)) for seq in range(5))
    assert none(verdict(8, Outcome.INVALID))


def test_an_image_is_on_disk_before_its_row_says_so(context: Context, tmp_path: Path) -> None:
    """The image keeper writes a PNG without loss, then reports its path and size."""
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    with (
        closing(pull(context, "inproc://images")) as inbox,
        closing(push(context, "inproc://images", 4)) as images,
        closing(Desk(context, tmp_path)) as desk,
        closing(push(context, "inproc://rows", 4)) as rows,
    ):
        keeper = ImageKeeper(tmp_path, inbox=inbox, rows=rows, meters=desk.meters)
        send(images, Record(verdict=verdict(5, Outcome.REJECT), image=image))
        keeper.step()
        desk.record(Record(verdict=verdict(5, Outcome.REJECT)))
        with RecordReader(tmp_path) as reader:
            (stored,) = reader.last(1)
        assert stored.image == "images/2026-09-21/0000000005-REJECT.png"
        import cv2

        assert np.array_equal(cv2.imread(str(tmp_path / stored.image), cv2.IMREAD_COLOR_RGB), image)


def test_an_image_that_cannot_be_written_costs_only_the_image(context: Context, tmp_path: Path) -> None:
    """Where the images folder cannot be made, the fault shows and is counted, and the keeper goes on."""
    (tmp_path / "images").write_bytes(b"a file where the folder should be")
    meters = Meters()
    with (
        closing(pull(context, "inproc://images")) as inbox,
        closing(push(context, "inproc://images", 4)) as images,
        closing(push(context, "inproc://rows", 4)) as rows,
    ):
        keeper = ImageKeeper(tmp_path, inbox=inbox, rows=rows, meters=meters)
        send(images, Record(verdict=verdict(5, Outcome.REJECT), image=np.zeros((4, 4, 3), np.uint8)))
        keeper.step()
    assert meters.counts()[Count.IMAGES_DROPPED] == 1
    assert "images cannot be written" in meters.storage_faults()[0]


def test_numbers_go_on_after_a_clean_stop_without_a_gap(tmp_path: Path) -> None:
    """What was reserved and not used is given back."""
    with closing(Sequence(tmp_path)) as first:
        assert [first.next() for _ in range(3)] == [1, 2, 3]
    with closing(Sequence(tmp_path)) as second:
        assert second.next() == 4


def test_the_newest_number_is_one_that_was_given_out_or_recorded(tmp_path: Path) -> None:
    """Neither what a crash left reserved, nor what was skipped, is anybody's number."""
    with closing(Sequence(tmp_path)) as sequence:
        assert sequence.newest is None
        sequence.go_on_after(0)
        assert sequence.newest is None
        assert [sequence.next(), sequence.next(), sequence.newest] == [1, 2, 2]
        image = (tmp_path / "sequence").read_bytes()  # what a crash leaves
    (tmp_path / "sequence").write_bytes(image)
    with closing(Sequence(tmp_path)) as after:
        after.go_on_after(2)
        assert after.newest == 2 < after.upcoming - 1
        assert after.next() == after.newest


def test_numbers_never_come_twice_after_a_crash(tmp_path: Path) -> None:
    """Without a clean stop, a number that might have been announced is skipped, at most a block of them."""
    crashed = Sequence(tmp_path)
    used = [crashed.next() for _ in range(3 * BLOCK)]
    image = (tmp_path / "sequence").read_bytes()  # what a crash leaves
    crashed.close()
    (tmp_path / "sequence").write_bytes(image)
    with closing(Sequence(tmp_path)) as after:
        assert used[-1] < after.next() <= used[-1] + BLOCK + 1


def test_a_torn_write_leaves_the_number_before(tmp_path: Path) -> None:
    """One damaged slot of the two is not believed; both damaged are refused."""
    with closing(Sequence(tmp_path)) as first:
        first.next()
    path = tmp_path / "sequence"
    data = bytearray(path.read_bytes())
    for start in (0, 20):
        torn = data.copy()
        torn[start + 8] ^= 0xFF
        path.write_bytes(torn)
        with closing(Sequence(tmp_path)) as after:
            assert after.next() >= 2
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(StorageError, match="damaged"):
        Sequence(tmp_path)


def test_the_database_has_the_last_word_where_it_knows_more(tmp_path: Path) -> None:
    """With the file gone, numbers go on after the last record."""
    with closing(Sequence(tmp_path, at_least=500)) as sequence:
        assert sequence.next() == 500


def test_a_second_daemon_on_the_same_records_is_refused(tmp_path: Path) -> None:
    """The folder belongs to one running daemon."""
    with closing(Sequence(tmp_path)), pytest.raises(StorageError, match="another inspectd"):
        Sequence(tmp_path)
