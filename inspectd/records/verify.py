"""Proof of a station's records, beside a running daemon: every number accounted for, every hash as it was written."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspectd.errors import StorageError
from inspectd.records.chain import Kind, anchor, canonical, link
from inspectd.records.database import open_for_reading
from inspectd.records.numbers import Numbers
from inspectd.records.sequence import issued_below
from inspectd.records.tables import COLUMNS, NOTE_COLUMNS, TABLE

CHUNK = 1000
IN_FLIGHT = 4096  # how far behind the newest number an unfinished run may still owe a record
MOST_PROBLEMS = 1000
_NAMES = {kind: columns.split(", ") for kind, columns in COLUMNS.items()}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold. `first`..`last`: part numbers, or entries of the chain for kind `chain`."""

    kind: str
    first: int
    last: int
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers without a record, and why."""

    first: int
    last: int
    wall_ns: int
    why: str


@dataclass(slots=True)
class Report:
    """What was found. `problem_count` goes on where `problems` ends (1000)."""

    parts: int = 0
    entries: int = 0
    first_seq: int = 0
    last_seq: int = 0
    deleted_to_seq: int = 0
    images: int = 0
    images_deleted: int = 0
    images_without_hash: int = 0
    stopped: bool = False
    head_entry: int = 0
    head_hash: str = ""
    gaps: list[Gap] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    def complain(self, kind: str, first: int, last: int, text: str) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(kind, first, last, text))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Entries of the chain with what they speak for, as they stood at one moment."""

    anchor_entry: int
    anchor_hash: bytes
    entries: list[tuple[int, str, int, bytes]]
    contents: dict[int, dict[str, Any]]
    images: dict[int, dict[str, Any]]  # of those whose file must be there


class Verifier:
    """Walks the chain of one station's records. Reads only; no transaction lasts longer than a chunk."""

    def __init__(self, folder: Path, *, images: bool = True) -> None:
        """Open `folder`/records.db. `images`: read each image too. Raises StorageError."""
        self._folder = folder
        self._images = images
        self._connection = open_for_reading(folder)
        self._numbers = Numbers()
        self._previous = b""
        self._report = Report()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def entries(self) -> int:
        """How many entries there are to look at. Raises StorageError."""
        return int(self._ask("SELECT count(*) FROM chain")[0][0])

    def run(self, advance: Callable[[int], None], *, head: tuple[int, str] | None = None) -> Report:
        """Look at everything once; `advance` is told how many entries were looked at. Blocks for the disk.

        head: entry and hash that somebody noted at an earlier time; they must still be so. Raises StorageError.
        """
        at = 0
        while (chunk := self._chunk(at)).entries:
            if chunk.anchor_entry >= at:
                at, self._previous = chunk.anchor_entry, chunk.anchor_hash
            for entry in chunk.entries:
                self._look_at(at, entry, chunk)
                at = entry[0]
            for part in chunk.images.values() if self._images else ():
                self._look_at_image(part)
            advance(len(chunk.entries))
        self._look_at_numbers()
        self._look_for_strays()
        if head is not None:
            self._look_at_head(*head)
        return self._report

    def _ask(self, query: str, values: tuple[int | str, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self._folder}: the records cannot be read: {error}") from error

    def _chunk(self, after: int) -> _Chunk:
        self._ask("BEGIN")
        try:
            begins = anchor(self._connection)
            after = max(after, begins.entry)
            query = "SELECT entry, kind, seq, hash FROM chain WHERE entry > ? ORDER BY entry LIMIT ?"
            entries = self._connection.execute(query, (after, CHUNK)).fetchall()
            last = entries[-1][0] if entries else after
            contents: dict[int, dict[str, Any]] = {}
            images: dict[int, dict[str, Any]] = {}
            for kind, names in _NAMES.items():
                mark = ", stored.deleted_wall_ns" if kind is Kind.IMAGE else ", NULL"
                query = (
                    f"SELECT chain.entry, {', '.join(f'stored.{name}' for name in names)} {mark} "  # noqa: S608 - our names
                    f"FROM chain JOIN {TABLE[kind]} AS stored ON stored.seq = chain.seq "
                    "WHERE chain.entry > ? AND chain.entry <= ? AND chain.kind = ?"
                )
                for entry, *values, deleted in self._connection.execute(query, (after, last, kind.value)):
                    contents[entry] = dict(zip(names, values, strict=True))
                    if kind is Kind.IMAGE and deleted is None:
                        images[entry] = contents[entry]
                    self._report.images_deleted += deleted is not None
            query = f"SELECT entry, {NOTE_COLUMNS} FROM events WHERE entry > ? AND entry <= ?"  # noqa: S608 - our names
            for entry, *values in self._connection.execute(query, (after, last)):
                contents[entry] = dict(zip(NOTE_COLUMNS.split(", "), values, strict=True))
        except sqlite3.Error as error:
            raise StorageError(f"{self._folder}: the records cannot be read: {error}") from error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        return _Chunk(begins.entry, begins.hash, entries, contents, images)

    def _look_at(self, before: int, entry: tuple[int, str, int, bytes], chunk: _Chunk) -> None:
        """One entry: it follows the one before, what it speaks for is there, and is as it was."""
        at, kind, seq, hash_now = entry
        report = self._report
        report.entries += 1
        report.head_entry, report.head_hash = at, hash_now.hex()
        if kind != Kind.CHALLENGE:  # with images, another process writes one between two runs
            report.stopped = kind == Kind.STOP
        content = chunk.contents.get(at)
        whole = at == before + 1
        if not whole:
            report.complain("chain", before + 1, at - 1, f"entries {before + 1} to {at - 1} of the chain were removed")
        if content is None:
            report.complain("removed", seq, seq, f"{_NOUNS.get(kind, kind)} {seq} was removed")
        elif whole and link(self._previous, canonical(Kind(kind), content)) != hash_now:
            report.complain("changed", seq, seq, f"{_NOUNS.get(kind, kind)} {seq} was changed, or its hash was")
        self._previous = hash_now
        if kind == Kind.PART:
            report.parts += 1
            self._numbers.add(seq, seq)
        elif kind == Kind.GAP and content is not None:
            gap = Gap(int(content["first_seq"]), int(content["last_seq"]), *_when_and_why(content))
            report.gaps.append(gap)
            self._numbers.add(gap.first, gap.last)

    def _look_at_image(self, image: dict[str, Any]) -> None:
        seq, path, report = int(image["seq"]), str(image["path"]), self._report
        try:
            with (self._folder / path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                size_bytes = file.tell()
        except OSError as error:
            deleted = "SELECT 1 FROM images WHERE seq = ? AND deleted_wall_ns IS NULL"
            if self._ask(deleted, (seq,)):  # else retention took it meanwhile
                report.complain("image_missing", seq, seq, f"image {path} of part {seq}: {error.strerror}")
            return
        report.images += 1
        report.images_without_hash += image["sha256"] is None
        if size_bytes != image["size_bytes"] or (image["sha256"] is not None and found != image["sha256"]):
            report.complain("image_changed", seq, seq, f"image {path} of part {seq} was changed")

    def _look_at_numbers(self) -> None:
        """Every number is recorded, explained, or deleted with the oldest; after a clean stop the newest ones too."""
        report = self._report
        report.deleted_to_seq = int(str((self._ask("SELECT coalesce(max(max_seq), 0) FROM anchor"))[0][0]))
        ((first,),) = self._ask("SELECT min(seq) FROM parts")
        report.first_seq, report.last_seq = int(first or 0), self._numbers.largest
        settled = report.last_seq if report.stopped else report.last_seq - IN_FLIGHT
        for gap in self._numbers.missing(report.deleted_to_seq + 1, report.last_seq):
            if gap[0] <= settled:
                text = f"parts {gap[0]} to {gap[1]} have no record, and nothing says why"
                report.complain("missing", *gap, text)
        if not report.stopped:
            return
        try:
            upcoming = issued_below(self._folder)
        except OSError as error:
            raise StorageError(f"{self._folder / 'sequence'}: cannot be read: {error.strerror}") from error
        if upcoming > max(report.last_seq, report.deleted_to_seq) + 1:
            text = f"numbers up to {upcoming - 1} were given out, but the records end with {report.last_seq}"
            report.complain("missing", report.last_seq + 1, upcoming - 1, text)

    def _look_for_strays(self) -> None:
        """A row that no entry speaks for was not written by the daemon."""
        for kind, table in TABLE.items():
            query = (
                f"SELECT (SELECT count(*) FROM {table}), "  # noqa: S608 - names of our own
                "(SELECT count(*) FROM chain WHERE kind = ?)"
            )
            ((rows, entries),) = self._ask(query, (kind.value,))
            if int(rows) > int(entries):
                text = f"table {table} has {rows} rows, the chain knows of {entries}: rows were added"
                self._report.complain("added", 0, 0, text)

    def _look_at_head(self, entry: int, noted: str) -> None:
        begins = anchor(self._connection)
        found = self._ask("SELECT hash FROM chain WHERE entry = ?", (entry,))
        now = found[0][0] if found else begins.hash if begins.entry == entry else None
        if isinstance(now, bytes) and now.hex() == noted:
            return
        if now is None and entry < begins.entry:
            text = f"entry {entry} was deleted for its age or size: a head must be noted more often"
        else:
            text = f"entry {entry} no longer has the hash that was noted: the records before it were rewritten"
        self._report.complain("chain", entry, entry, text)


_NOUNS: dict[str, str] = {
    Kind.PART: "the record of part",
    Kind.LATE: "the late scores of part",
    Kind.TOLD: "the told reject of part",
    Kind.IMAGE: "the image entry of part",
}


def _when_and_why(content: dict[str, Any]) -> tuple[int, str]:
    return int(content["wall_ns"]), str(content["detail"])


def verify(
    folder: Path, advance: Callable[[int], None], *, images: bool = True, head: tuple[int, str] | None = None
) -> Report:
    """Verify one station's folder in one go; see `Verifier`. Raises StorageError."""
    with closing(Verifier(folder, images=images)) as verifier:
        return verifier.run(advance, head=head)
