"""Readers of other programs beside the daemon: one that keeps the WAL is told, and a snapshot is read without one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml
from line_values import settings, verdict
from prometheus_client import CollectorRegistry
from recorder_desk import Context, Desk
from structlog.testing import capture_logs

from inspectd.__main__ import main
from inspectd.health.storage_watch import StorageWatch, Usage
from inspectd.messages import Outcome, Record, StoredImage
from inspectd.records import snapshot as module
from inspectd.records import wal
from inspectd.records.ledger import Ledger
from inspectd.records.reading import RecordReader
from inspectd.records.snapshot import snapshot
from inspectd.records.verify import verify
from inspectd.sections import RecordSettings

KEEP_BYTES = 2**20
WAL_BYTES = KEEP_BYTES // 8
READER = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM parts").fetchone()
print("reads", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def desk(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A recorder that keeps one MiB, of which an eighth is for the WAL; a reader is told of at once."""
    monkeypatch.setattr(wal, "PINNED_AFTER_S", 0.0)
    monkeypatch.setattr(wal, "RETRY_S", 0.0)
    with closing(Desk(context, tmp_path, keep_bytes=KEEP_BYTES)) as made:
        made.record(*rows(1, 10))
        yield made


@contextmanager
def another_program(folder: Path) -> Iterator[int]:
    """A process that reads in a transaction which it does not end; gives its id."""
    command = [sys.executable, "-c", READER, str(folder / "records.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reads\n"
        yield process.pid
        process.communicate("")


def rows(first: int, count: int) -> list[Record]:
    """Parts of some two kB each."""
    return [
        Record(verdict=verdict(seq, wall_ns=time.time_ns()), source="x" * 1000) for seq in range(first, first + count)
    ]


def keep_house(desk: Desk) -> None:
    """What retention does in a row."""
    desk.retention._next_s = 0.0
    while desk.retention.step():
        pass


def wal_bytes(desk: Desk) -> int:
    """How large the WAL is."""
    return (desk.folder / "records.db-wal").stat().st_size


def test_a_reader_that_keeps_the_wal_is_told_with_its_process(desk: Desk) -> None:
    """Health names it while it lasts, the log at its beginning and end; once it is gone, the WAL is small again."""
    with capture_logs() as logged:
        with another_program(desk.folder) as process_id:
            desk.ledger.write(rows(11, 200))
            keep_house(desk)
            keep_house(desk)
            assert wal_bytes(desk) > WAL_BYTES
            (worry,) = [line for line in desk.storage.worries() if "WAL" in line]
            assert f"process {process_id}" in worry
            assert desk.storage.report()["wal_bytes"] == wal_bytes(desk)
        keep_house(desk)
    assert wal_bytes(desk) <= WAL_BYTES
    assert [line for line in desk.storage.worries() if "WAL" in line] == []
    told = [line["event"] for line in logged if "WAL" in line["event"]]
    assert len(told) == 2
    assert "another program" in told[0]
    assert "again" in told[1]


def test_the_wal_counts_in_the_budget(desk: Desk) -> None:
    """Without a reader, rows, images and WAL together stay within keep_bytes, however much is written."""
    for first in range(11, 2011, 100):
        desk.record(*rows(first, 100))
    keep_house(desk)
    with RecordReader(desk.folder) as reader:
        assert next(reader.all()).verdict.seq > 1
    database = (desk.connection.execute("PRAGMA page_count").fetchone()[0]) * 4096
    free = (desk.connection.execute("PRAGMA freelist_count").fetchone()[0]) * 4096
    assert desk.retention.used_bytes() == database - free + wal_bytes(desk)
    assert desk.retention.used_bytes() <= KEEP_BYTES


def test_what_a_reader_makes_of_the_wal_costs_no_record(desk: Desk) -> None:
    """Deleting rows would only make it longer: none goes for it, nor an image within the images' share."""
    image = StoredImage(seq=1, path="images/2026-09-21/0000000001-REJECT.png", size_bytes=1000)
    desk.record(image, *rows(11, 100))
    with another_program(desk.folder):
        for _ in range(400):
            desk.connection.execute("UPDATE images SET size_bytes = size_bytes")
        assert desk.retention.used_bytes() > KEEP_BYTES
        keep_house(desk)
        with RecordReader(desk.folder) as reader:
            kept = list(reader.all())
        assert [part.verdict.seq for part in kept] == [*range(1, 111)]
        assert kept[0].image is not None


def test_a_reader_that_comes_and_goes_is_no_news(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one at the very moment of a checkpoint is waited for, without a word."""
    monkeypatch.setattr(wal, "PINNED_AFTER_S", 1000.0)
    with another_program(desk.folder):
        desk.ledger.write(rows(11, 200))
        keep_house(desk)
        assert [line for line in desk.storage.worries() if "WAL" in line] == []


def test_the_size_of_the_wal_is_a_metric() -> None:
    """Beside rows and images."""
    registry = CollectorRegistry()
    StorageWatch(RecordSettings(), registry).take(Usage(rows_bytes=1, images_bytes=2, wal_bytes=3))
    assert registry.get_sample_value("inspectd_records_bytes", {"of": "wal"}) == 3


def in_between(do: Callable[[], object]) -> Callable[[int], None]:
    """What the snapshot calls after each chunk: `do`, the first time."""
    left = [do]

    def advance(entries: int) -> None:
        while left:
            left.pop()()

    return advance


def test_a_snapshot_is_whole_and_proved(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file without a WAL, with every row of the moment, hashes and all; nothing is written to the original."""
    monkeypatch.setattr(module, "CHUNK", 7)
    desk.record(*rows(11, 40), *(Record(verdict=verdict(seq, Outcome.REJECT)) for seq in range(51, 56)))
    desk.record(StoredImage(seq=51, path="images/2026-09-21/0000000051-REJECT.png", size_bytes=5))
    out = tmp_path / "copy" / "records.db"
    out.parent.mkdir()
    taken = snapshot(desk.folder, out, in_between(lambda: desk.record(*rows(56, 5))))
    assert taken.parts == 55
    assert [path.name for path in out.parent.iterdir()] == ["records.db"]
    with RecordReader(out) as copy, RecordReader(desk.folder) as original:
        assert list(copy.all()) == list(original.all())[:55]
    report = verify(out.parent, lambda entries: None, images=False)
    assert report.problems == []
    assert (report.head_entry, report.head_hash) == (taken.head_entry, taken.head_hash)
    assert (
        verify(desk.folder, lambda entries: None, images=False, head=(taken.head_entry, taken.head_hash)).problems == []
    )


def test_a_snapshot_does_not_keep_the_wal(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two chunks a checkpoint gets through to the end."""
    monkeypatch.setattr(module, "CHUNK", 7)
    busy: list[int] = []

    def checkpoint() -> None:
        desk.record(*rows(11, 5))
        busy.append(desk.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    snapshot(desk.folder, tmp_path / "copy.db", in_between(checkpoint))
    assert busy == [0]


def test_a_snapshot_that_retention_overtakes_begins_with_what_is_left(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that were deleted behind and before it are not in it; what is left is proved."""
    monkeypatch.setattr(module, "CHUNK", 7)
    desk.record(*rows(11, 300))

    def overtake() -> None:
        desk.retention._delete_entries(desk.retention._oldest())

    (tmp_path / "copy").mkdir()
    snapshot(desk.folder, tmp_path / "copy" / "records.db", in_between(overtake))
    report = verify(tmp_path / "copy", lambda entries: None, images=False)
    assert report.problems == []
    assert (report.first_seq, report.last_seq) == (201, 310)


def test_the_command_writes_a_snapshot_and_refuses_the_records_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what it took; the running database is never its target; what cannot be written is exit code 8."""
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    folder = tmp_path / "records" / "test"
    with closing(Ledger(folder)) as ledger:
        ledger.write(rows(1, 3))
    command = ["records", "snapshot", "--station", str(path)]
    assert main([*command, "--out", str(tmp_path / "copy.db")]) == 0
    assert "3 parts" in capsys.readouterr().out
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM parts").fetchone() == (3,)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert main(command) == 2
    assert main([*command, "--out", str(folder / "records.db")]) == 2
    assert main([*command, "--out", str(tmp_path / "nowhere" / "copy.db")]) == 8
    with RecordReader(folder) as reader:
        assert reader.newest() == 3
