"""What is about to be announced, written first: the gate appends each row here before it tells anyone.

The kernel holds what was written, whatever becomes of the process; at the next start `replay` gives back what the
database has not got. No write waits for the disk's own time: nothing is synced here, so it is no help in a power cut.
"""

from __future__ import annotations

import errno
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import structlog

from inspectd.health.meters import Count, Meters, Stage
from inspectd.messages import Record
from inspectd.records.sequence import is_at
from inspectd.wire.errors import WireError
from inspectd.wire.stages import decode, encode

FOLDER = "journal"
SEGMENT_BYTES = 1 << 20
MOST_SEGMENTS = 32
SLOW_NS = 50_000_000
MOST_SLOW = 2
PAUSE_NS = 1_000_000_000
_HEAD = struct.Struct("<QII")  # generation of the segment, length, CRC-32 of generation, length and payload
_CHECKED = struct.Struct("<QI")
log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Segment:
    """One preallocated file. `generation` tells its rows from those of the file's earlier use."""

    path: Path
    file: int
    generation: int = 0
    used_bytes: int = 0
    waiting: set[int] = field(default_factory=set)  # numbers that the database has not got yet


class Journal:
    """Append-only segments, each used again once all its rows are committed. `append` and the others: two threads.

    Disk space is taken beforehand (`prepare`), so that a disk that fills refuses no row that there is room for.
    """

    def __init__(self, folder: Path) -> None:
        """Work in `folder`/journal. Whatever lies there must have been replayed, and is forgotten. Raises OSError."""
        self._folder = folder / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in _paths(folder):
            path.unlink()
        self._lock = Lock()
        self._current: _Segment | None = None
        self._full: list[_Segment] = []
        self._spare: list[_Segment] = []
        self._generation = time.time_ns()
        self._paused_until_ns = 0
        self._slow = 0
        self._next_try_ns = 0

    def append(self, record: Record) -> bool:
        """Write one row, without its images; False where that could not be done. Never waits for room or for a sync.

        Two writes in a row that took longer than 50 ms each pause the journal for a second: a disk that stalls delays
        no more.
        """
        if time.monotonic_ns() < self._paused_until_ns:
            return False
        payload = bytes(encode(record)[0])
        with self._lock:
            segment = self._with_room(_HEAD.size + len(payload))
            if segment is None:
                return False
            begun_ns = time.monotonic_ns()
            checked = _CHECKED.pack(segment.generation, len(payload))
            frame = checked + struct.pack("<I", zlib.crc32(payload, zlib.crc32(checked))) + payload
            try:
                written = os.pwrite(segment.file, frame, segment.used_bytes)
            except OSError:
                written = 0
            if written == len(frame):
                segment.used_bytes += written
                segment.waiting.add(record.verdict.seq)
        self._slow = self._slow + 1 if time.monotonic_ns() - begun_ns > SLOW_NS else 0
        if written != len(frame) or self._slow >= MOST_SLOW:
            self._paused_until_ns = time.monotonic_ns() + PAUSE_NS
        return written == len(frame)

    def settle(self, seqs: Iterable[int]) -> None:
        """These rows are in the database, or given up: their room may be used again.

        `append` waits for the lock: what it takes is a look-up for each row that waits, not one for each row and file.
        """
        done = set(seqs)
        with self._lock:
            for segment in (*self._full, self._current):
                if segment is not None:  # a part that was noted twice may lie in two
                    segment.waiting -= segment.waiting & done  # goes through the smaller of the two
            empty = [segment for segment in self._full if not segment.waiting]
            self._full = [segment for segment in self._full if segment.waiting]
            self._spare += empty

    def restore(self) -> bool:
        """Let go of files that another program removed, so that others are made; True where there were some.

        Rows in them that the database has not got yet are no longer safe from a kill. Raises OSError.
        """
        with self._lock:
            segments = self._segments()
        gone = [segment for segment in segments if not is_at(segment.path, segment.file)]
        if not gone:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._full = [segment for segment in self._full if segment not in gone]
            self._spare = [segment for segment in self._spare if segment not in gone]
            if self._current in gone:
                self._current = None
            for segment in gone:
                os.close(segment.file)
        return True

    def prepare(self) -> None:
        """Have one spare segment ready; blocks for the disk. No room is logged once, and tried again each second."""
        with self._lock:
            if self._spare or len(self._segments()) >= MOST_SEGMENTS or time.monotonic_ns() < self._next_try_ns:
                return
        try:
            segment = self._new_segment()
        except OSError as error:
            if not self._next_try_ns:
                log.error("no room for the journal: a kill might cost the last records; free space", why=str(error))
            self._next_try_ns = time.monotonic_ns() + PAUSE_NS
            return
        self._next_try_ns = 0
        with self._lock:
            self._spare.append(segment)

    def _segments(self) -> list[_Segment]:
        """All that there are; the lock is held."""
        return [*self._full, *self._spare, *([self._current] if self._current else [])]

    def _new_segment(self) -> _Segment:
        with self._lock:
            taken = {segment.path.name for segment in self._segments()}
        name = next(name for number in range(MOST_SEGMENTS) if (name := f"{number:04d}") not in taken)
        path = self._folder / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(file, 0, SEGMENT_BYTES)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return _Segment(path, file)

    def close(self) -> None:
        """Close the files; a second call does nothing. They stay where a row in them is not settled."""
        with self._lock:
            segments = self._segments()
            self._full, self._spare, self._current = [], [], None
        for segment in segments:
            os.close(segment.file)
            if not segment.waiting:
                segment.path.unlink(missing_ok=True)

    def _with_room(self, size: int) -> _Segment | None:
        """The segment that takes so many bytes, None where there is none; the lock is held."""
        if self._current is not None and self._current.used_bytes + size <= SEGMENT_BYTES:
            return self._current
        if not self._spare or size > SEGMENT_BYTES:
            return None
        if self._current is not None:
            (self._full if self._current.waiting else self._spare).append(self._current)
        self._current = self._spare.pop(0)
        self._generation += 1
        self._current.generation, self._current.used_bytes = self._generation, 0
        return self._current


def replay(folder: Path) -> list[Record]:
    """What an earlier run journalled, oldest first; a torn tail ends its segment. Raises OSError.

    Of two rows of a part the later one counts: the first one's verdict could not leave in time (docs/gate.md).
    """
    found = []
    for path in _paths(folder):
        data = path.read_bytes()
        generation = _CHECKED.unpack_from(data)[0] if len(data) >= _HEAD.size else 0
        found.append((generation, data))
    rows = (record for generation, data in sorted(found) if generation for record in _records(data, generation))
    return list({record.verdict.seq: record for record in rows}.values())


def _records(data: bytes, generation: int) -> Iterator[Record]:
    at = 0
    while at + _HEAD.size <= len(data):
        of, length, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if of != generation or zlib.crc32(payload, zlib.crc32(data[at : at + _CHECKED.size])) != checksum:
            return
        try:
            record = decode([payload])
        except WireError:
            return  # of another version: nothing behind it can be read either
        if isinstance(record, Record):
            yield record
        at += _HEAD.size + length


def _paths(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in (folder / FOLDER).iterdir() if path.name.isdigit())
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


class Noting:
    """Journals what the gate is about to announce; what cannot be is announced all the same, counted and told."""

    def __init__(self, journal: Journal, meters: Meters) -> None:
        self._journal = journal
        self._meters = meters
        self._works = True

    def __call__(self, record: Record) -> None:
        """Journal one row; never waits for room or for a sync."""
        works = self._journal.append(record)
        if not works:
            self._meters.count(Count.JOURNAL_SKIPPED)
        if works != self._works:
            self._works = works
            fault = "" if works else "verdicts cannot be journalled: a kill now would lose records; free space"
            self._meters.set_storage_fault(Stage.GATE, fault)
