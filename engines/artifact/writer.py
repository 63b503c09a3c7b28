"""Writing a bundle: into a hidden folder beside its place, synced, renamed into it at once, then read-only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from engines.artifact.bundle import HASH_DIGITS, Bundle, open_bundle
from engines.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest, ManifestContent
from engines.errors import BundleError
from engines.writing import NO_ROOM_CODES

READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class BundleWriter:
    """A bundle in the making: put its files under `folder`, then `write`; leaving the context unwritten discards it.

    Used as a context manager. Raises BundleError where the folder cannot be made.
    """

    def __init__(self, root: Path, station: str) -> None:
        self._home = Path(root) / station
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._home))
        except OSError as error:
            raise BundleError(f"{self._home}: cannot be written: {error.strerror}") from error
        self._station = station

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def write(self, content: ManifestContent) -> Bundle:
        """Hash and seal the files under `folder`, move them to <root>/<station>/<hash>/ and return them verified.

        Blocks until everything is on disk. Raises BundleError.
        """
        if content.station != self._station:
            raise BundleError(f"{self._home}: content is for station {content.station}, not {self._station}")
        try:
            files = {path.relative_to(self.folder).as_posix(): _seal(path) for path in self._regular_files()}
            manifest = Manifest.model_validate(
                {
                    **content.model_dump(),
                    "created": datetime.now(UTC),
                    "files": {n: e.model_dump() for n, e in files.items()},
                }
            )
            raw = manifest_bytes(manifest)
            path = self.folder / MANIFEST_NAME
            path.write_bytes(raw)
            _seal(path)
            target = self._home / hashlib.sha256(raw).hexdigest()[:HASH_DIGITS]
            self.folder.chmod(0o755)
            for folder in (*(p for p in self.folder.rglob("*") if p.is_dir()), self.folder):
                sync(folder)
            self.folder.rename(target)
            sync(self._home)
        except OSError as error:
            if error.errno in NO_ROOM_CODES:
                raise
            raise BundleError(f"{self._home}: the bundle cannot be written: {error.strerror}") from error
        return open_bundle(target)

    def _regular_files(self) -> list[Path]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_symlink() or not path.is_dir())
        for path in found:
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"{path}: a bundle holds regular files only")
            if path.name == MANIFEST_NAME and path.parent == self.folder:
                raise BundleError(f"{path}: the writer makes the manifest itself")
        return found


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one way to spell a manifest: sorted keys, indented for people; what the bundle's hash is taken of."""
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def sync(path: Path) -> None:
    """Block until a file or a folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(path: Path) -> FileEntry:
    """Sync a file, make it read-only and describe it."""
    path.chmod(READ_ONLY)
    sync(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, size=path.stat().st_size)
