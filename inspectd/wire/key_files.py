"""Making and taking away a station's key files; the daemon only reads them (`wire.keys`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from inspectd.errors import KeysError, StorageError
from inspectd.wire.keys import (
    CLIENT_NAME,
    CLIENTS_NAME,
    LOCAL_CLIENT,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    SERVER_NAME,
    KeyPair,
    client_text,
    new_pair,
    public_text,
    read_server_key,
    server_text,
)

FOLDER_MODE, SECRET_MODE, PUBLIC_MODE = 0o750, 0o600, 0o640


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """A station's key folder. Whatever is made here belongs to the owner of the folder around it, also for root.

    Every method raises KeysError where a key would be overwritten or a name is not valid, StorageError for the disk.
    """

    path: Path
    station: str

    def make_server(self, *, force: bool) -> KeyPair:
        """A pair for the daemon, and one for the commands of this machine (`local`); returns the daemon's."""
        secret = self.path / (SERVER_NAME + SECRET_SUFFIX)
        if secret.exists() and not force:
            raise KeysError(f"{secret}: is there already; --force replaces it, and every client needs a new key then")
        pair = new_pair()
        _make_folder(self.path / CLIENTS_NAME)
        _write(secret, server_text(pair, self.station), SECRET_MODE)
        _write(self.path / (SERVER_NAME + PUBLIC_SUFFIX), public_text(pair, self.station), PUBLIC_MODE)
        self.make_client(LOCAL_CLIENT, self.path / (LOCAL_CLIENT + SECRET_SUFFIX), force=True)
        return pair

    def make_client(self, name: str, out: Path, *, force: bool) -> KeyPair:
        """A pair for a client: its secret file to `out`, its public key onto the allow-list; returns it."""
        allowed = self.allowed(name)
        for path in (allowed, out):
            if path.exists() and not force:
                raise KeysError(f"{path}: is there already; --force replaces it, `inspectd keys revoke` takes it away")
        server = read_server_key(self.path)
        pair = new_pair()
        _write(out, client_text(pair, server.public, name=name, station=self.station), SECRET_MODE)
        _write(allowed, public_text(pair, name), PUBLIC_MODE)
        return pair

    def revoke(self, name: str) -> Path:
        """Take a client off the allow-list; returns the file that was removed."""
        allowed = self.allowed(name)
        try:
            allowed.unlink()
        except FileNotFoundError:
            raise KeysError(f"{allowed}: no such client; `inspectd keys list` names them") from None
        except OSError as error:
            raise StorageError(f"{allowed}: cannot be removed: {error.strerror}") from error
        return allowed

    def allowed(self, name: str) -> Path:
        """Where a client's public key lies. Raises KeysError for a name that could lead elsewhere."""
        if not CLIENT_NAME.fullmatch(name):
            raise KeysError(f"{name!r}: a client's name has 1 to 64 of a-z, 0-9, - and _, and begins with a-z or 0-9")
        return self.path / CLIENTS_NAME / (name + PUBLIC_SUFFIX)


def _make_folder(path: Path) -> None:
    """The folder and those above it that are missing."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    try:
        path.mkdir(mode=FOLDER_MODE)
        _hand_over(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror}") from error


def _write(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        _hand_over(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _hand_over(path: Path) -> None:
    """Made by root, it belongs to the owner of its folder: the daemon runs as a user of its own, and must read it."""
    if os.geteuid() == 0:
        around = path.parent.stat()
        os.chown(path, around.st_uid, around.st_gid)
