"""Records of the real daemon after SIGKILL, a lock, a damaged or half-deleted database, and beside a huge backlog."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq
from line_values import BUNDLE_HASH, verdict
from machine_stalls import MachineStalls
from test_daemon import PATIENCE_S, Announced, Daemon, daemon

from inspectd.__main__ import main
from inspectd.errors import StorageError
from inspectd.messages import Record
from inspectd.records.ledger import Ledger
from inspectd.records.reading import RecordReader
from inspectd.records.retention import CHUNK, NS_PER_DAY
from inspectd.records.sequence import Sequence
from inspectd.records.verify import verify
from inspectd.wire.client import ask

Context = zmq.Context[zmq.Socket[bytes]]
KILLS = 4


class Listener:
    """Who notes each number that is announced on a station's topic, over all runs of its daemon."""

    def __init__(self, context: Context, endpoint: str) -> None:
        self.announced = Announced(context, endpoint)
        self.seqs: list[int] = []

    def take(self, count: int) -> None:
        """Wait for so many results."""
        self.seqs += self.announced.take(count)

    def rest(self) -> None:
        """Take what has arrived."""
        self.seqs += self.announced.rest()

    def close(self) -> None:
        """Hang up."""
        self.announced._socket.close(linger=0)


def recorded(running: Daemon) -> list[int]:
    """The numbers in the database."""
    with RecordReader(running.folder) as reader:
        return [part.verdict.seq for part in reader.all()]


def state(running: Daemon) -> dict[str, Any]:
    """What the daemon says of itself."""
    status: dict[str, Any] = ask(running.station.outputs.queries, {"ask": "status"}, PATIENCE_S)[0]["status"]
    return status


def wait_until_why(running: Daemon, text: str, *, there: bool) -> None:
    """Block until the reasons for a state other than running name `text`, or no longer do."""
    end_s = time.monotonic() + PATIENCE_S
    while (text in " ".join(state(running)["why"])) is not there:
        assert time.monotonic() < end_s, state(running)


def finish(folder: Path) -> Daemon:
    """Start once more, which takes over the journal, and let the daemon end by itself."""
    with daemon(folder, max_parts=3) as last:
        assert last.process.wait(PATIENCE_S) == 0
        last.end()
    return last


def test_no_announced_verdict_is_lost_or_doubled_by_sigkill(tmp_path: Path, context: Context) -> None:
    """Killed again and again at a moment of no one's choosing: every announced number is in the records, once."""
    moment = random.Random(20261122)  # noqa: S311 - moments, not secrets
    for _ in range(KILLS):
        with daemon(tmp_path, trigger={"period_ms": 3}) as running:
            with closing(Listener(context, running.station.outputs.results)) as listener:
                listener.take(moment.randint(20, 120))
                running.end(signal.SIGKILL)
                listener.rest()
            seen = set(listener.seqs)
            assert len(seen) == len(listener.seqs)
            before = tmp_path / "seen.json"
            earlier = set(json.loads(before.read_text())) if before.exists() else set()
            assert min(seen) > max(earlier, default=0)
            before.write_text(json.dumps(sorted(earlier | seen)))
    last = finish(tmp_path)
    assert set(json.loads(before.read_text())) <= set(recorded(last))
    report = verify(last.folder, lambda entries: None)
    assert report.problems == []
    assert len(report.gaps) >= KILLS - 1
    assert report.stopped


def test_rows_that_a_lock_held_back_survive_sigkill(tmp_path: Path, context: Context) -> None:
    """While another program holds the database verdicts go on and health says why; killed then, nothing is lost."""
    with daemon(tmp_path, trigger={"period_ms": 10}) as running:
        with (
            closing(Listener(context, running.station.outputs.results)) as listener,
            closing(sqlite3.connect(running.folder / "records.db", isolation_level=None, timeout=10)) as other,
        ):
            listener.take(5)
            other.execute("BEGIN IMMEDIATE")
            wait_until_why(running, "locked", there=True)
            assert state(running)["state"] == "degraded"
            other.execute("ROLLBACK")
            wait_until_why(running, "locked", there=False)
            other.execute("BEGIN IMMEDIATE")
            held = set(recorded(running))
            listener.take(100)
            running.end(signal.SIGKILL)
            listener.rest()
            other.execute("ROLLBACK")
        assert set(recorded(running)) == held
    last = finish(tmp_path)
    assert set(listener.seqs) <= set(recorded(last))
    assert verify(last.folder, lambda entries: None).problems == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of a few MiB, or a visible skip where mounting is not permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits; returns the file."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def test_rows_that_a_full_disk_refused_survive_sigkill(tmp_path: Path, small_disk: Path, context: Context) -> None:
    """The journal's room was taken beforehand: killed on a full disk, what was announced is recorded afterwards."""
    keep = {"folder": str(small_disk / "records"), "passed_image_every": 0}
    with (
        daemon(tmp_path, trigger={"period_ms": 10}, records=keep) as running,
        closing(Listener(context, running.station.outputs.results)) as listener,
    ):
        listener.take(5)
        ballast = fill(small_disk)
        wait_until_why(running, "records cannot be written", there=True)
        listener.take(100)
        assert state(running)["counts"]["journal_skipped"] == 0
        running.end(signal.SIGKILL)
        listener.rest()
    ballast.unlink()
    last = finish(tmp_path)
    assert set(listener.seqs) <= set(recorded(last))
    assert verify(last.folder, lambda entries: None).problems == []


def test_the_line_runs_on_a_damaged_database_and_a_person_is_told(tmp_path: Path) -> None:
    """At three in the morning: verdicts and records go on, the damaged file is kept, health is degraded and says so."""
    with daemon(tmp_path, max_parts=20) as first:
        first.process.wait(PATIENCE_S)
        first.end()
    broken = first.folder / "records.db"
    broken.write_bytes(b"no database " * 1000)
    with daemon(tmp_path) as running:
        wait_until_why(running, "begun anew", there=True)
        while (state(running)["last_seq"] or 0) < 40:
            pass
        code, log = running.end()
    assert code == 0
    (kept,) = running.folder.glob("damaged-*-records.db")
    assert kept.read_bytes() == b"no database " * 1000
    assert any(kept.name in json.dumps(line) for line in log)
    assert min(recorded(running)) > 20
    report = verify(running.folder, lambda entries: None)
    assert report.problems == []
    assert kept.name in report.gaps[0].why


def test_a_wal_deleted_under_the_daemon_costs_no_record(tmp_path: Path, context: Context) -> None:
    """The daemon notices, saves what it holds and goes on; every announced part is in the records, and proved."""
    with (
        daemon(tmp_path, records={"sync_ms": 100}) as running,
        closing(Listener(context, running.station.outputs.results)) as listener,
    ):
        listener.take(30)
        (running.folder / "records.db-wal").unlink()
        listener.take(100)
        code, log = running.end()
        listener.rest()
    assert code == 0
    assert any("deleted" in line["event"] for line in log)
    assert set(listener.seqs) <= set(recorded(running))
    assert verify(running.folder, lambda entries: None).problems == []


def test_records_removed_under_the_daemon_are_told_and_no_number_comes_twice(tmp_path: Path, context: Context) -> None:
    """The whole folder goes: health says so until the next start; numbers, journal and lock stand there again."""
    with (
        daemon(tmp_path, trigger={"period_ms": 10}) as running,
        closing(Listener(context, running.station.outputs.results)) as listener,
    ):
        listener.take(30)
        shutil.rmtree(running.folder)
        wait_until_why(running, "removed by another program", there=True)
        assert state(running)["state"] == "degraded"
        while not (running.folder / "run").exists() or not list((running.folder / "journal").glob("0*")):
            listener.take(1)
        with pytest.raises(StorageError, match="another inspectd runs this station"):
            Sequence(running.folder)
        listener.take(50)
        assert "removed by another program" in " ".join(state(running)["why"])
        told, run = state(running)["last_seq"], state(running)["run"]
        running.end(signal.SIGKILL)
        listener.rest()
    with daemon(tmp_path, trigger={"period_ms": 10}) as again:
        while not (now := state(again))["verdicts"]["PASS"]:
            pass
        assert now["run"] == run
        assert "removed" not in " ".join(now["why"])
        again.end()
    last = recorded(again)
    assert max(listener.seqs) in last
    assert min(seq for seq in last if seq > max(listener.seqs)) > told
    assert len(set(listener.seqs)) == len(listener.seqs)
    assert verify(again.folder, lambda entries: None, images=False).problems == []


@pytest.mark.parametrize("what", ["sequence", "journal", "images", "records.db"])
def test_a_part_of_the_records_removed_under_the_daemon_is_told_though_nothing_is_recorded(
    tmp_path: Path, what: str
) -> None:
    """Whatever it is, and while the line stands still."""
    settings = {"source": "zmq", "endpoint": f"ipc://{tmp_path}/triggers.ipc"}
    with daemon(tmp_path, trigger=settings, records={"passed_image_every": 1}) as running:
        with zmq.Context() as context, context.socket(zmq.PUSH) as source:
            source.connect(settings["endpoint"])
            source.send(b"{}")
            while not list((running.folder / "images").rglob("*.png")) or recorded(running) == []:
                pass
            source.linger = 0
        gone = running.folder / what
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        wait_until_why(running, "removed by another program", there=True)
        code, log = running.end()
    assert code == 0
    assert any("removed by another program" in line["event"] for line in log)


def test_a_huge_backlog_of_retention_holds_no_verdict_up(tmp_path: Path, context: Context) -> None:
    """While thousands of old records are deleted, each verdict leaves by its deadline and is recorded."""
    folder = tmp_path / "records" / "test"
    backlog = 60 * CHUNK
    old_ns = time.time_ns() - 3 * NS_PER_DAY
    with closing(Ledger(folder)) as ledger:
        ledger.write([Record(verdict=verdict(seq, wall_ns=old_ns)) for seq in range(1, backlog)])
        ledger.write([Record(verdict=verdict(backlog, wall_ns=old_ns + 9 * NS_PER_DAY // 4))])
    with (
        MachineStalls() as stalls,
        daemon(tmp_path, records={"keep_days": 1}) as running,
        closing(Listener(context, running.station.outputs.results)) as listener,
    ):
        while recorded(running)[0] < backlog:
            listener.take(1)
        running.end()
        listener.rest()
    with RecordReader(running.folder) as reader:
        parts = list(reader.all())[1:]
    assert set(listener.seqs) <= {part.verdict.seq for part in parts}
    assert {part.verdict.bundle_hash for part in parts} == {BUNDLE_HASH}
    late = [part.verdict for part in parts if part.verdict.verdict_ns > part.verdict.deadline_ns]
    assert all(stalls.within(verdict.trigger_ns, verdict.verdict_ns) for verdict in late)
    assert verify(running.folder, lambda entries: None).problems == []


def test_verify_and_export_beside_the_running_daemon(
    tmp_path: Path, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands read while rows are written, and the daemon goes on."""
    with daemon(tmp_path) as running:
        with closing(Listener(context, running.station.outputs.results)) as listener:
            listener.take(30)
            station = ["--station", str(running.path)]
            assert main(["records", "verify", *station]) == 0
            out = tmp_path / "out.csv"
            assert main(["records", "export", *station, "--out", str(out)]) == 0
            listener.take(5)
        code, _ = running.end()
    assert code == 0
    assert "goes on" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) > 10
