"""A disk that fills, a database that another program holds, one that is destroyed: verdicts go on, health tells."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import accounting
import pytest
from faulty_line import FaultyLine, until
from tiny_station import NAME

Line = Callable[..., FaultyLine]
DISK_KIB = 32_000
CHUNK = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of its own, or a visible skip where mounting is not permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave not a byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(CHUNK)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk has no end")


def test_a_full_disk_costs_no_verdict_and_no_record_once_there_is_room(line: Line, small_disk: Path) -> None:
    """Full: every part is judged, health is degraded; with room again the rows that waited are written."""
    running = line(records={"folder": str(small_disk / "records"), "passed_image_every": 0})
    assert running.reasons(3) == ["within_limits"] * 3
    ballast = fill(small_disk)
    assert running.reasons(40) == ["within_limits"] * 40
    running.wait_for_state("degraded")
    assert running.metrics()["inspectd_storage_faults_total"] >= 1
    ballast.unlink()
    until(lambda: running.part() and running.status()["state"] == "running", "health runs again")
    assert {result["reason"] for result in running.heard.results} == {"within_limits"}
    assert accounting.balance(running, len(running.heard.results)) == 0


def test_a_disk_that_stays_full_ends_with_the_storage_code(line: Line, small_disk: Path) -> None:
    """Ended while full: code 8 and one line; what was recorded before the disk was full is whole."""
    running = line(records={"folder": str(small_disk / "records"), "passed_image_every": 0})
    assert running.reasons(3) == ["within_limits"] * 3
    until(lambda: running.metrics()["inspectd_rows_total"] == 3, "three records")
    fill(small_disk)
    running.reasons(40)
    running.wait_for_state("degraded")
    code = running.end()
    accounting.on_topic_and_in_records(running, 43, missing=40)
    assert code == 8
    assert "records could not be written" in running.events()[-1]


def test_a_locked_database_holds_no_verdict_up(line: Line) -> None:
    """Another program holds the write lock: parts are judged, health says why; let go, every record is there."""
    running = line()
    assert running.reasons(2) == ["within_limits"] * 2
    path = running.station.records.folder / NAME / "records.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert running.reasons(5) == ["within_limits"] * 5
        running.wait_for_state("degraded")
        other.execute("ROLLBACK")
    running.wait_for_state("running")
    assert running.reasons(1) == ["within_limits"]
    assert accounting.balance(running, 8) == 0


def test_a_database_destroyed_while_it_runs_costs_no_verdict_now_or_later(line: Line) -> None:
    """Garbage over the whole file: each part is judged; the next start sets it aside, tells so, and numbers go on."""
    running = line()
    assert running.reasons(2) == ["within_limits"] * 2
    path = running.station.records.folder / NAME / "records.db"
    until(lambda: running.metrics()["inspectd_rows_total"] == 2, "two records")
    for file in (path, path.with_name("records.db-wal")):
        if file.exists():
            with file.open("r+b") as opened:
                opened.write(b"garbage " * (file.stat().st_size // 8))
    assert running.reasons(20) == ["within_limits"] * 20
    metrics = running.metrics()
    assert metrics["inspectd_triggers_total"] == 22
    assert metrics["inspectd_verdicts_total,PASS,within_limits"] == 22
    running.end()
    running.start()
    assert running.reasons(1) == ["within_limits"]
    running.wait_for_state("degraded", "begun anew")
    assert running.end() == 0
    announced = [result["seq"] for result in running.heard.results]
    assert announced == sorted(set(announced))
    assert len(announced) == 23
