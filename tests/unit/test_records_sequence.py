"""Sequence numbers while the disk is slow or refuses: on real files, with a sync that waits for its word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from inspectd.records import sequence as module
from inspectd.records.sequence import BLOCK, Sequence, issued_below

PATIENCE_S = 10.0


class SlowDisk:
    """Holds each sync up until it is told to go on."""

    def __init__(self) -> None:
        self.reached = Event()
        self.go_on = Event()
        self._sync = os.fdatasync

    def sync(self, file: int) -> None:
        """What `os.fdatasync` is while the disk is slow."""
        self.reached.set()
        assert self.go_on.wait(PATIENCE_S)
        self._sync(file)


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[Sequence]:
    """Numbers of a new folder."""
    with closing(Sequence(tmp_path)) as made:
        yield made


@pytest.fixture
def disk(numbers: Sequence, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    """A disk that became slow once the numbers were there."""
    slow = SlowDisk()
    monkeypatch.setattr(module.os, "fdatasync", slow.sync)
    yield slow
    slow.go_on.set()


def test_numbers_come_at_once_while_the_next_block_waits_for_the_disk(
    numbers: Sequence, disk: SlowDisk, tmp_path: Path
) -> None:
    """Every number of the old block is given out during a sync of the next, and none of the next before its end."""
    used = [numbers.next() for _ in range(BLOCK // 2 + 1)]
    reserving = Thread(target=numbers.reserve)
    reserving.start()
    assert disk.reached.wait(PATIENCE_S)
    rest: list[int] = []
    taking = Thread(target=lambda: rest.extend(numbers.next() for _ in range(BLOCK - len(used))))
    taking.start()
    taking.join(PATIENCE_S / 2)
    assert used + rest == list(range(1, BLOCK + 1))
    beyond: list[int] = []
    waiting = Thread(target=lambda: beyond.append(numbers.next()))
    waiting.start()
    waiting.join(0.05)
    assert beyond == []
    disk.go_on.set()
    for thread in (reserving, waiting):
        thread.join(PATIENCE_S)
    assert beyond == [BLOCK + 1]
    assert issued_below(tmp_path) > beyond[0]


def test_each_number_is_on_the_disk_before_it_is_given_out(
    numbers: Sequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From several threads, with reserves in between: none twice, and none at or above what a crash would read."""
    synced = [issued_below(tmp_path)]
    sync = os.fdatasync

    def note(file: int) -> None:
        sync(file)
        synced.append(issued_below(tmp_path))

    monkeypatch.setattr(module.os, "fdatasync", note)
    taken: list[tuple[int, int]] = []

    def take() -> None:
        for _ in range(4 * BLOCK):
            number = numbers.next()
            taken.append((number, max(synced)))

    threads = [Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        numbers.reserve()
    assert len({number for number, _ in taken}) == len(taken) == 12 * BLOCK
    assert all(number < limit for number, limit in taken)


def test_a_reserve_that_the_disk_refuses_gives_no_number_of_the_block(
    numbers: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old block is used up; then the refusal reaches who asks, and once the disk is back numbers go on."""

    def refuse(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fdatasync", refuse)
        assert [numbers.next() for _ in range(BLOCK)][-1] == BLOCK
        with pytest.raises(OSError, match="Input/output"):
            numbers.next()
    assert numbers.next() == BLOCK + 1


def test_a_stop_gives_nothing_back_that_was_given_out_meanwhile(
    numbers: Sequence, disk: SlowDisk, tmp_path: Path
) -> None:
    """A number that is asked for while the stop is written is refused, not given out once more by the next start."""
    used = numbers.next()
    closing_down = Thread(target=numbers.close)
    closing_down.start()
    assert disk.reached.wait(PATIENCE_S)
    late: list[int | str] = []

    def ask() -> None:
        try:
            late.append(numbers.next())
        except OSError:
            late.append("refused")

    asking = Thread(target=ask)
    asking.start()
    disk.go_on.set()
    for thread in (closing_down, asking):
        thread.join(PATIENCE_S)
    assert late == ["refused"]
    with closing(Sequence(tmp_path)) as after:
        assert after.next() == used + 1
