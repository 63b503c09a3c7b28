"""Images that earlier runs left without a row (a kill, a damaged database): taken in, so that retention knows them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import structlog

from inspectd.messages import StoredImage
from inspectd.records.ledger import Ledger

FILES = 20
PAUSE_S = 0.1
_NAME = re.compile(r"(\d{10,18})-[A-Z]+\.(png|part)")
_EMPTY = "SELECT NOT EXISTS (SELECT 1 FROM chain)"  # begun anew: what stands first there would go first
_FIRST = "SELECT first_seq FROM events WHERE kind = 'start' ORDER BY entry DESC LIMIT 1"
log = structlog.get_logger(__name__)


class Sweep:
    """Goes through `images/` once, a few files at a time, in the recorder's thread.

    A file without a row gets one, with its size and no hash. What is half written, or marked as deleted, is removed.
    Files of this run are left alone: their rows may be on the way.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self._ledger = ledger
        self._folder = folder
        self._files: Iterator[tuple[int, Path]] | None = None
        self._chunk: list[tuple[int, Path]] = []
        self._taken_in = 0
        self._done = False
        self._next_s = 0.0

    def step(self) -> None:
        """Look at a few files where it is time to. Raises sqlite3.Error, after which they come again."""
        if self._done or time.monotonic() < self._next_s or self._ledger.connection.execute(_EMPTY).fetchone()[0]:
            return
        self._next_s = time.monotonic() + PAUSE_S
        if self._files is None:
            first = self._ledger.connection.execute(_FIRST).fetchone()
            self._files = self._below(first[0] if first else 0)
        self._chunk = self._chunk or list(islice(self._files, FILES))
        self._done = not self._chunk
        strays = [image for seq, file in self._chunk if (image := self._stray(seq, file)) is not None]
        if strays:
            self._ledger.write(strays)
            self._taken_in += len(strays)
        self._chunk = []
        if self._done and self._taken_in:
            log.warning("images of earlier runs had no row: taken in, without a hash", images=self._taken_in)

    def _stray(self, seq: int, file: Path) -> StoredImage | None:
        """What the database has not got of this image; None where it has, or where the file is a remnant and goes."""
        path = str(file.relative_to(self._folder))
        query = "SELECT path, deleted_wall_ns IS NOT NULL FROM images WHERE seq = ?"
        row = self._ledger.connection.execute(query, (seq,)).fetchone()
        with suppress(OSError):  # one file that is gone, or not ours to delete, must not hold retention up
            if file.suffix == ".part" or row == (path, True):
                file.unlink()
            elif row is None:
                return StoredImage(seq=seq, path=path, size_bytes=file.stat().st_size)
        return None

    def _below(self, first: int) -> Iterator[tuple[int, Path]]:
        """Numbers and files of earlier runs, read as they are asked for."""
        for day in sorted((self._folder / "images").glob("????-??-??")):
            with suppress(OSError), os.scandir(day) as entries:
                for entry in entries:
                    found = _NAME.fullmatch(entry.name)
                    if found and int(found[1]) < first:
                        yield int(found[1]), Path(entry.path)
