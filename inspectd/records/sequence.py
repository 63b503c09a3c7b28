"""Sequence numbers that go on after a restart and never come twice, not even after SIGKILL, a power cut or a full disk.

A small file holds the number below which all are spoken for. It is moved on in blocks, before a number of the block is
used, in place (no new disk space) and synced. A clean stop gives the unused rest back; after a crash it stays a gap.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from pathlib import Path
from threading import Lock

from inspectd.errors import StorageError

BLOCK = 256
_SLOT = struct.Struct("<QQI")  # generation, limit, CRC-32 of both
_SLOTS = 2  # written in turn: a torn write leaves the other one


class Sequence:
    """The next number, for one running daemon: a second one on the same folder is refused with StorageError."""

    def __init__(self, folder: Path, *, at_least: int = 1) -> None:
        """Open or create `folder`/sequence; numbers begin at `at_least` or where the file says, whichever is larger."""
        self._path = folder / "sequence"
        self._lock = Lock()  # of the numbers: held for moments only, never for the disk
        self._writing = Lock()  # of the file: taken before the other one
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._generation, stored = _read(os.pread(self._file, _SLOTS * _SLOT.size, 0), self._path)
            self._next = self._limit = max(stored, at_least)
            self._newest: int | None = None
            self.reserve()
        except OSError as error:
            os.close(self._file)
            taken = isinstance(error, BlockingIOError)
            what = "another inspectd runs this station" if taken else f"cannot be written: {error.strerror}"
            raise StorageError(f"{self._path}: {what}") from error
        except StorageError:
            os.close(self._file)
            raise

    def go_on_after(self, seq: int) -> None:
        """Skip every number up to `seq`, the largest recorded one (0: none is).

        Blocks for the disk where too few are reserved then. Raises OSError.
        """
        with self._lock:
            self._next = max(self._next, seq + 1)
            self._newest = max(self._newest or 0, seq) or None
        self.reserve()

    @property
    def upcoming(self) -> int:
        """The number that comes next."""
        return self._next

    @property
    def newest(self) -> int | None:
        """The largest number that was given out here, before that the largest recorded one; None where there is none.

        What an earlier run reserved and never gave out does not count: nobody can ask for it.
        """
        return self._newest

    def next(self) -> int:
        """The next number; blocks for the disk only where nobody called `reserve` in time. Raises OSError."""
        while (number := self._take()) is None:
            self.reserve()
        return number

    def _take(self) -> int | None:
        with self._lock:
            if self._next >= self._limit:
                return None
            self._newest = self._next
            self._next += 1
            return self._newest

    def reserve(self) -> None:
        """Move the limit on where less than half a block is left; blocks for the disk. Raises OSError.

        `next` goes on meanwhile below the old limit; the new one counts once it is on the disk.
        """
        with self._writing:
            with self._lock:
                if self._limit - self._next >= BLOCK // 2:
                    return
                limit = self._next + BLOCK
            self._store(limit)
            with self._lock:
                self._limit = limit

    def restore(self) -> bool:
        """Where another program removed or replaced the file: make it anew, locked, with what is spoken for.

        True where that was so. Blocks for the disk. Raises OSError.
        """
        with self._writing:
            if self._file < 0 or is_at(self._path, self._file):
                return False
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            os.close(self._file)
            self._file = file
            with self._lock:
                limit = self._limit
            for _ in range(_SLOTS):  # whatever the other slot of a file that was put there says
                self._store(limit)
            return True

    def close(self) -> None:
        """Give unused numbers back and unlock; a second call does nothing. Raises OSError."""
        with self._writing:
            if self._file < 0:
                return
            with self._lock:
                limit = self._limit = self._next  # what is given back is given to nobody here any more
            try:
                self._store(limit)
            finally:
                os.close(self._file)
                self._file = -1

    def _store(self, limit: int) -> None:
        """Write and sync the slot that is not in use; `_writing` is held."""
        generation = self._generation + 1
        body = struct.pack("<QQ", generation, limit)
        slot = body + struct.pack("<I", zlib.crc32(body))
        os.pwrite(self._file, slot, (generation % _SLOTS) * _SLOT.size)
        os.fdatasync(self._file)
        self._generation = generation


def is_at(path: Path, file: int) -> bool:
    """Whether an open file is still the one that its path names. Raises OSError but for a path that is gone."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(found, os.fstat(file))


def issued_below(folder: Path) -> int:
    """The number below which all are spoken for, 0 for no file; the daemon may run. Raises StorageError, OSError."""
    path = folder / "sequence"
    return _read(path.read_bytes()[: _SLOTS * _SLOT.size], path)[1] if path.is_file() else 0


def _read(data: bytes, path: Path) -> tuple[int, int]:
    """(generation, limit) of the newer valid slot; (0, 0) for a new file. Raises StorageError where none is valid."""
    valid = []
    for start in range(0, len(data) - _SLOT.size + 1, _SLOT.size):
        generation, limit, checksum = _SLOT.unpack_from(data, start)
        if zlib.crc32(data[start : start + _SLOT.size - 4]) == checksum and generation:
            valid.append((generation, limit))
    if data and not valid:
        raise StorageError(f"{path}: is damaged; move it away (numbers then go on after the last record)")
    return max(valid, default=(0, 0))
