"""The journal: what was appended comes back, whatever was torn, whatever was used before. Real files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_values import verdict

from inspectd.health.meters import Count, Meters
from inspectd.messages import Outcome, Pose, Record
from inspectd.records import journal as module
from inspectd.records.journal import Journal, Noting, replay
from inspectd.records.opening import Records
from inspectd.records.reading import RecordReader

POSE = Pose(x_px=120.5, y_px=99.25, angle_deg=-3.5, scale=1.25)


def record(seq: int) -> Record:
    """A rejected part."""
    return Record(verdict=verdict(seq, Outcome.REJECT), pose=POSE, source=f"cam/{seq}")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with one spare segment."""
    with closing(Journal(tmp_path)) as made:
        made.prepare()
        yield made


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that hold three rows."""
    monkeypatch.setattr(module, "SEGMENT_BYTES", 4096)


def seqs(folder: Path) -> list[int]:
    """The numbers that a start would find."""
    return [found.verdict.seq for found in replay(folder)]


def test_what_was_appended_comes_back_equal_and_in_order(journal: Journal, tmp_path: Path) -> None:
    """Without close, flush or sync: as a killed process leaves it."""
    assert all(journal.append(record(seq)) for seq in (3, 1, 2))
    assert replay(tmp_path) == [record(3), record(1), record(2)]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), flip=st.integers(0, 7))
def test_a_torn_tail_costs_only_what_was_torn(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int) -> None:
    """A file cut or changed at any byte gives back every row before it, and never one that was not written."""
    folder = tmp_path_factory.mktemp("torn")
    with closing(Journal(folder)) as made:
        made.prepare()
        rows = [record(seq) for seq in range(1, 5)]
        ends = []
        for row in rows:
            assert made.append(row)
            ends.append(made._current.used_bytes if made._current else 0)
        (path,) = (folder / "journal").iterdir()
        data = bytearray(path.read_bytes())
        cut = min(cut, ends[-1] - 1)
        data[cut] ^= 1 << flip
        path.write_bytes(data)
        whole = sum(end <= cut for end in ends)
        assert replay(folder) == rows[:whole]
        path.write_bytes(data[:cut])
        assert replay(folder) == rows[:whole]


@pytest.mark.usefixtures("small_segments")
def test_room_is_used_again_once_rows_are_settled(journal: Journal, tmp_path: Path) -> None:
    """A thousand rows in turn take two files, and what is settled never comes back in place of what is not."""
    for seq in range(1, 1001):
        assert journal.append(record(seq))
        journal.prepare()
        if seq > 2:
            journal.settle([seq - 2])
        assert seqs(tmp_path)[-2:] == list(range(max(1, seq - 1), seq + 1))
    assert len(list((tmp_path / "journal").iterdir())) <= 3


@pytest.mark.usefixtures("small_segments")
def test_without_room_a_row_is_refused_at_once_and_none_that_waits_is_overwritten(
    journal: Journal, tmp_path: Path
) -> None:
    """With no spare segment rows are refused, and counted; settled room is taken again, and health recovers."""
    meters = Meters()
    note = Noting(journal, meters)
    for seq in range(1, 11):
        note(record(seq))
    kept = seqs(tmp_path)
    assert kept == list(range(1, len(kept) + 1))
    assert 0 < len(kept) < 10
    assert meters.counts()[Count.JOURNAL_SKIPPED] == 10 - len(kept)
    assert "cannot be journalled" in meters.storage_faults()[0]
    journal.prepare()
    note(record(11))
    assert seqs(tmp_path) == [*kept, 11]
    assert meters.storage_faults() == []


def test_a_disk_that_refuses_the_write_pauses_the_journal(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is not tried again for each part, and the row before it stays."""
    tries: list[int] = []

    def refuse(file: int, data: bytes, at: int) -> int:
        tries.append(at)
        raise OSError(28, "No space left on device")

    assert journal.append(record(1))
    monkeypatch.setattr(module.os, "pwrite", refuse)
    assert [journal.append(record(seq)) for seq in (2, 3, 4)] == [False] * 3
    assert len(tries) == 1
    assert seqs(tmp_path) == [1]


def test_a_disk_that_stalls_delays_two_verdicts_not_each(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two slow writes in a row the journal pauses, and takes rows again a second later."""
    now_ns = [0]
    write = os.pwrite

    def slowly(file: int, data: bytes, at: int) -> int:
        now_ns[0] += 60_000_000
        return write(file, data, at)

    monkeypatch.setattr(module.time, "monotonic_ns", lambda: now_ns[0])
    monkeypatch.setattr(module.os, "pwrite", slowly)
    assert [journal.append(record(seq)) for seq in (1, 2, 3, 4)] == [True, True, False, False]
    monkeypatch.setattr(module.os, "pwrite", write)
    now_ns[0] += 1_000_000_000
    assert [journal.append(record(seq)) for seq in (5, 6, 7)] == [True, True, True]
    assert seqs(tmp_path) == [1, 2, 5, 6, 7]


def test_a_start_takes_over_what_the_journal_has_and_the_database_has_not(tmp_path: Path) -> None:
    """Rows that are only journalled are recorded at the start; the rest of the numbers is a gap with its reason."""
    crashed = Records(tmp_path, sync_s=1, set_aside=True)
    for seq in range(1, 21):
        assert crashed.sequence.next() == seq
        assert crashed.journal.append(record(seq))
    crashed.ledger.write([record(seq) for seq in range(1, 11)])
    crashed.ledger.connection.close()  # what SIGKILL leaves: nothing settled, given back or noted
    number = (tmp_path / "sequence").read_bytes()
    crashed.sequence.close()
    (tmp_path / "sequence").write_bytes(number)
    after = Records(tmp_path, sync_s=1, set_aside=True)
    with RecordReader(tmp_path) as reader:
        assert [part.verdict for part in reader.all()] == [record(seq).verdict for seq in range(1, 21)]
    assert after.sequence.upcoming > 21
    assert after.ledger.missing(after.sequence.upcoming) == []
    gaps = after.ledger.connection.execute("SELECT first_seq, last_seq FROM events WHERE kind = 'gap'").fetchall()
    assert gaps == [(21, after.sequence.upcoming - 1)]
    after.sequence.close()
    after.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_of_a_part_that_was_noted_twice_the_later_note_counts(tmp_path: Path, small_segments: None) -> None:
    """Also where they lie in two segments; both are free again once the part is in the database."""
    withdrawn, told = Record(verdict=verdict(1)), Record(verdict=verdict(1, Outcome.INVALID))
    with closing(Journal(tmp_path)) as journal:
        journal.prepare()
        assert journal.append(withdrawn)
        journal.prepare()
        while len(journal_rows(tmp_path)) < 2:
            assert journal.append(record(100 + len(seqs(tmp_path))))
        assert journal.append(told)
        assert [found.verdict.outcome for found in replay(tmp_path) if found.verdict.seq == 1] == [Outcome.INVALID]
        journal.settle(seqs(tmp_path))
    assert not list((tmp_path / "journal").iterdir())


@pytest.mark.usefixtures("small_segments")
def test_settling_looks_rows_up_without_the_lock_that_a_verdict_waits_for(journal: Journal) -> None:
    """Twenty thousand numbers over many files: they are gone through before the lock is taken."""
    for seq in range(1, 61):
        assert journal.append(record(seq))
        journal.prepare()
    assert len(journal._full) > 10
    looked: list[int] = []

    def numbers() -> Iterator[int]:
        for seq in range(1, 20_001):
            looked.append(seq)
            assert not journal._lock.locked()
            yield seq

    journal.settle(numbers())
    assert len(looked) == 20_000
    assert journal._full == []


def journal_rows(folder: Path) -> list[Path]:
    """The segments that rows were written to."""
    return [path for path in (folder / "journal").iterdir() if any(path.read_bytes())]
