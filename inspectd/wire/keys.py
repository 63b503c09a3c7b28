"""Key files of a station, in ZeroMQ's certificate format: the daemon's pair, who may come in, what a client carries."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from inspectd.errors import KeysError

SERVER_NAME, CLIENTS_NAME, LOCAL_CLIENT = "server", "clients", "local"
PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"
CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_FILE_BYTES = 4096
KEY_BYTES = 32
MAX_CLIENTS = 1000
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_FIELD = re.compile(r'^[ \t]*(public-key|secret-key|server-key)[ \t]*=[ \t]*"([^"\s]+)"[ \t]*$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE pair, both in Z85 (40 characters); its text never shows the secret."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair({self.public.decode()})"


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What a client needs to come in: its own pair, and the daemon's public key. `file`: where it was read."""

    pair: KeyPair
    server: bytes
    file: Path


def new_pair() -> KeyPair:
    """Make a pair. Raises KeysError where this ZeroMQ has no CURVE."""
    try:
        return KeyPair(*zmq.curve_keypair())
    except zmq.ZMQError as error:
        raise KeysError("this build of ZeroMQ has no CURVE: install pyzmq from its wheel") from error


def server_text(pair: KeyPair, station: str) -> str:
    """The daemon's secret file."""
    return _text(f"daemon of station {station}", {"station": station}, pair, secret=True)


def public_text(pair: KeyPair, owner: str) -> str:
    """A public file: what the other side may know."""
    return _text(owner, {"name": owner}, pair, secret=False)


def client_text(pair: KeyPair, server: bytes, *, name: str, station: str) -> str:
    """A client's secret file; one file is all that it has to carry."""
    return _text(
        f"client {name} of station {station}",
        {"name": name, "station": station, "server-key": f'"{server.decode()}"'},
        pair,
        secret=True,
    )


def read_server_key(folder: Path) -> KeyPair:
    """The daemon's pair from a station's key folder. Raises KeysError, also where others may read the file."""
    path = folder / (SERVER_NAME + SECRET_SUFFIX)
    return _pair(path, _read_secret(path, "make it with `inspectd keys new`"))


def read_client_key(path: Path) -> ClientKey:
    """A client's file, as `inspectd keys client` made it. Raises KeysError, also where others may read the file."""
    fields = _read_secret(path, "make it with `inspectd keys client` on the daemon's machine, or name it with --key")
    server = fields.get("server-key")
    if server is None:
        raise KeysError(f"{path}: does not say which daemon it is for (server-key); give the file of `keys client`")
    return ClientKey(_pair(path, fields), server, path)


def read_public_key(path: Path) -> bytes:
    """The public key in a file of the allow-list, Z85. Raises KeysError."""
    public = _fields(path, _read(path)).get("public-key")
    if public is None:
        raise KeysError(f"{path}: holds no public-key")
    return public


def allowed_clients(folder: Path) -> tuple[dict[bytes, str], list[str]]:
    """Who may come in: {public key: client name} of a station's key folder, and what is wrong with its other files.

    Raises KeysError where the allow-list itself cannot be read.
    """
    home = folder / CLIENTS_NAME
    try:
        files = sorted(file for file in home.iterdir() if file.suffix == PUBLIC_SUFFIX)
    except OSError as error:
        raise KeysError(f"{home}: cannot be read: {error.strerror}; make it with `inspectd keys new`") from error
    if len(files) > MAX_CLIENTS:
        raise KeysError(f"{home}: {len(files)} clients, at most {MAX_CLIENTS} are allowed")
    allowed: dict[bytes, str] = {}
    faults: list[str] = []
    for file in files:
        try:
            allowed[read_public_key(file)] = file.stem
        except KeysError as error:
            faults.append(str(error))
    return allowed, faults


def _text(owner: str, metadata: dict[str, str], pair: KeyPair, *, secret: bool) -> str:
    kind = "SECRET key: whoever has this file is let in" if secret else "public key"
    lines = [f"#   inspectd: {owner}", f"#   ZeroMQ CURVE {kind}", "", "metadata"]
    lines += [f"    {name} = {value}" for name, value in metadata.items()]
    lines += ["curve", f'    public-key = "{pair.public.decode()}"']
    if secret:
        lines.append(f'    secret-key = "{pair.secret.decode()}"')
    return "\n".join([*lines, ""])


def _pair(path: Path, fields: dict[str, bytes]) -> KeyPair:
    if "public-key" not in fields or "secret-key" not in fields:
        raise KeysError(f"{path}: holds no public-key or no secret-key")
    if zmq.curve_public(fields["secret-key"]) != fields["public-key"]:
        raise KeysError(f"{path}: its public-key and secret-key do not belong together")
    return KeyPair(fields["public-key"], fields["secret-key"])


def _read_secret(path: Path, remedy: str) -> dict[str, bytes]:
    """As ssh does: a secret that others could have read is none."""

    def private(found: os.stat_result) -> str:
        return f"others may read it; run `chmod 600 {path}`" if found.st_mode & OTHERS else ""

    return _fields(path, _read(path, private, remedy))


def _read(path: Path, objection: Callable[[os.stat_result], str] = lambda found: "", remedy: str = "") -> str:
    """A small regular file, judged by the very descriptor that is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            why = objection(found) if stat.S_ISREG(found.st_mode) else "is no file"
            data = file.read(MAX_FILE_BYTES + 1) if not why else b""
    except FileNotFoundError:
        raise KeysError(f"{path}: no such key{'; ' if remedy else ''}{remedy}") from None
    except OSError as error:
        raise KeysError(f"{path}: cannot be read: {error.strerror}; it must belong to who runs this") from error
    if why:
        raise KeysError(f"{path}: {why}")
    if len(data) > MAX_FILE_BYTES:
        raise KeysError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so no key")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise KeysError(f"{path}: is no key file") from None


def _fields(path: Path, text: str) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    for name, value in _FIELD.findall(text):
        try:
            is_key = len(z85.decode(value)) == KEY_BYTES
        except (ValueError, KeyError, struct.error):  # a character, or five of them, that Z85 does not know
            is_key = False
        if not is_key or name in fields:
            raise KeysError(f"{path}: its {name} is no key, or is given twice")
        fields[name] = value.encode("ascii")
    return fields
