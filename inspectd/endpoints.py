"""Addresses of sockets in settings: what libzmq cannot bind, or binds elsewhere, is refused where it is read."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from typing import Final

LARGEST_PORT: Final = 65_535
PATTERN: Final = r"^(tcp://[^\s/\x00]+:[0-9]{1,5}|ipc://[^\s\x00]+)$"
LONGEST_PATH: Final = 107
"""Bytes of a path that a Unix socket can have."""
NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
"""Of a host or a network interface."""


def checked(endpoint: str) -> str:
    """The endpoint, which has PATTERN, unchanged. Raises ValueError, one line, for one that no socket can be bound to.

    Whether this machine has the address shows when it is bound.
    """
    if endpoint.startswith("tcp://"):
        _check_tcp(endpoint)
    else:
        _check_path(endpoint)
    return endpoint


def host_of(endpoint: str) -> str:
    """The host of a TCP endpoint, without brackets."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].removeprefix("[").removesuffix("]")


def _check_tcp(endpoint: str) -> None:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not 1 <= int(port) <= LARGEST_PORT:  # libzmq would take it modulo 65 536
        raise ValueError(f"{endpoint}: a port is a number from 1 to {LARGEST_PORT}")
    if host == "*" or _is_bracketed(host) or _is_ipv4(host):
        return
    if ":" in host and _is_address(host):
        raise ValueError(f"{endpoint}: IPv6 addresses stand in brackets: tcp://[{host}]:{port}")
    if not NAME.fullmatch(host) or not host.strip("0123456789."):
        raise ValueError(f"{endpoint}: {host} is no address: give an IPv4 address, [IPv6], * or the name of a card")


def _check_path(endpoint: str) -> None:
    path = endpoint.removeprefix("ipc://")
    if path in ("@", "*"):  # libzmq makes up a path for the latter, which no client could know
        raise ValueError(f"{endpoint}: needs a name: ipc:///run/inspectd/NAME, or ipc://@NAME")
    if len(path.encode()) > LONGEST_PATH:
        raise ValueError(f"{endpoint}: the path of a socket has at most {LONGEST_PATH} bytes")


def _is_bracketed(host: str) -> bool:
    inside = host[1:-1]
    return host.startswith("[") and host.endswith("]") and (inside == "*" or _is_address(inside))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_ipv4(host: str) -> bool:
    """Also in the short forms that the system reads, such as 127.1."""
    with suppress(OSError):
        return bool(socket.inet_aton(host))
    return False
