"""The id of a run of numbers: when it stays, when it is another, what a disk that refuses it costs."""

from __future__ import annotations

from pathlib import Path

from line_values import RUN, verdict

from inspectd.commands.watch import View
from inspectd.records.run_id import known_run, run_id
from inspectd.wire.public import result


def test_it_stays_until_numbers_begin_again(tmp_path: Path) -> None:
    """It is read back as long as numbers go on, and made anew with the first of them."""
    assert known_run(tmp_path) == ""
    first = run_id(tmp_path, anew=True)
    assert run_id(tmp_path, anew=False) == known_run(tmp_path) == first
    assert run_id(tmp_path, anew=True) == known_run(tmp_path) != first


def test_records_of_before_get_one(tmp_path: Path) -> None:
    """Numbers that go on and have no id, or a damaged one, get one that stays."""
    made = run_id(tmp_path, anew=False)
    assert run_id(tmp_path, anew=False) == made
    (tmp_path / "run").write_bytes(b"\xff" * 33)
    assert known_run(tmp_path) == ""
    mended = run_id(tmp_path, anew=False)
    assert run_id(tmp_path, anew=False) == mended != made


def test_a_disk_that_refuses_it_stops_no_line(tmp_path: Path) -> None:
    """There is an id for as long as the daemon runs, and nothing half written takes the place of the file."""
    (tmp_path / "run.part").mkdir()
    assert len(run_id(tmp_path, anew=True)) == 32
    assert known_run(tmp_path) == ""


def test_watch_counts_what_it_missed_over_numbers_that_begin_again() -> None:
    """In another run its numbers before the first one heard were missed, whatever came before."""
    view = View("test", "tcp://127.0.0.1:1")
    for seq, run in ((7, RUN), (9, RUN), (1, "0d" * 16), (12, "1e" * 16)):
        view.take(result(verdict(seq), run))
    assert view.missed == 1 + 0 + 11
