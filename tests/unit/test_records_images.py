"""The writer of images beside retention and on a full disk: rows come first, and a fault ends when its cause does."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from line_values import verdict
from recorder_desk import Context, Desk

from inspectd.health.meters import Count
from inspectd.messages import Outcome, Record
from inspectd.records import images as module
from inspectd.records.images import ImageKeeper
from inspectd.wire.sockets import Socket, pull, push, send

DAY = "images/2026-09-21"
IMAGE = np.zeros((4, 4, 3), np.uint8)
PATIENCE_S = 30.0
DiskUsage = namedtuple("DiskUsage", "total used free")


class Bench:
    """A keeper of images, what it is sent, and the recorder that it reports to."""

    def __init__(self, desk: Desk, *, inbox: Socket, images: Socket, rows: Socket) -> None:
        self.desk, self._images = desk, images
        self.keeper = ImageKeeper(desk.folder, inbox=inbox, rows=rows, meters=desk.meters)

    def offer(self, seq: int) -> None:
        """Send an image of a rejected part, and let the keeper take it."""
        assert send(self._images, Record(verdict=verdict(seq, Outcome.REJECT), image=IMAGE))
        self.keeper.step()

    @property
    def faults(self) -> list[str]:
        """What health says of images."""
        return [fault for fault in self.desk.meters.storage_faults() if "image" in fault]

    @property
    def dropped(self) -> int:
        """How many images were not kept."""
        return self.desk.meters.counts()[Count.IMAGES_DROPPED]


@pytest.fixture
def bench(context: Context, tmp_path: Path) -> Iterator[Bench]:
    """On an empty folder."""
    with ExitStack() as stack:
        inbox = stack.enter_context(closing(pull(context, "inproc://images")))
        images = stack.enter_context(closing(push(context, "inproc://images", 100)))
        desk = stack.enter_context(closing(Desk(context, tmp_path)))
        rows = stack.enter_context(closing(push(context, "inproc://rows", 100)))
        yield Bench(desk, inbox=inbox, images=images, rows=rows)


def test_a_folder_that_retention_removes_meanwhile_costs_no_image(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day's folder is empty for a moment, and is taken away between its making and the first file in it."""
    make, left = Path.mkdir, [2]

    def made_and_removed(path: Path, *args: object, **more: object) -> None:
        make(path, *args, **more)  # type: ignore[arg-type]
        if path == tmp_path / DAY and left[0]:
            left[0] -= 1
            with suppress(FileNotFoundError):
                path.rmdir()

    monkeypatch.setattr(Path, "mkdir", made_and_removed)
    bench.offer(1)
    assert left == [0]
    assert (bench.dropped, bench.faults) == (0, [])
    assert [path.name for path in (tmp_path / DAY).iterdir()] == ["0000000001-REJECT.png"]


def test_while_rows_are_refused_no_image_takes_their_room(bench: Bench, tmp_path: Path) -> None:
    """The disk refuses rows: images are dropped and counted, until the rows that waited are written."""
    bench.desk.record(Record(verdict=verdict(1)))
    pages = bench.desk.connection.execute("PRAGMA page_count").fetchone()[0]
    bench.desk.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    bench.desk.record(*(Record(verdict=verdict(seq), source="x" * 3000) for seq in range(2, 20)))
    bench.offer(20)
    assert not (tmp_path / DAY).exists()
    assert bench.dropped == 1
    assert "records come first" in bench.faults[0]
    bench.desk.connection.execute("PRAGMA max_page_count = 1000000").fetchone()
    bench.desk.retry()
    bench.offer(21)
    assert bench.faults == []
    assert [path.name for path in (tmp_path / DAY).iterdir()] == ["0000000021-REJECT.png"]


def test_the_last_room_of_a_disk_is_left_to_the_rows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images end before the disk is full."""
    nearly_full = DiskUsage(10**9, 10**9 - module.LEFT_TO_ROWS_BYTES, module.LEFT_TO_ROWS_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    bench.offer(1)
    assert bench.dropped == 1
    assert "free space" in bench.faults[0]
    assert not (tmp_path / DAY).exists()


def test_the_fault_is_over_once_images_could_be_written_again_though_none_comes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line with a reject a day must not be degraded for a day: the keeper tries by itself, and leaves nothing."""
    monkeypatch.setattr(module, "TRY_EVERY_S", 0.0)
    (tmp_path / "images").write_bytes(b"a file where the folder should be")
    bench.offer(1)
    assert bench.faults
    stop = Event()
    keeping = Thread(target=bench.keeper.run, args=(stop,))
    keeping.start()
    try:
        (tmp_path / "images").unlink()
        over = Event()
        for _ in range(int(PATIENCE_S * 20)):
            if not bench.faults or over.wait(0.05):
                break
        assert bench.faults == []
    finally:
        stop.set()
        keeping.join(PATIENCE_S)
    assert list((tmp_path / "images").rglob("*")) == []


def test_what_is_told_of_a_fault_is_what_helps_against_it(bench: Bench, tmp_path: Path) -> None:
    """Space is asked for where space is short, not where a file stands in the way."""
    (tmp_path / "images").write_bytes(b"a file where the folder should be")
    bench.offer(1)
    assert "free space" not in bench.faults[0]
    assert "permissions" in bench.faults[0]
