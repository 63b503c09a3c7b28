"""How many connections an endpoint may have: libzmq has no bound, and aborts the process once descriptors run out."""

from __future__ import annotations

import os
import resource
import socket as sockets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

MOST: Final = 256
"""Three endpoints of so many stay below 1024 descriptors, beyond which programs that use select(), as camera drivers
do, fail."""
LEAST: Final = 4
SPARE: Final = 64
TURN_S: Final = 1.0
log = structlog.get_logger(__name__)


def ceiling(endpoints: int) -> int:
    """How many connections each of so many endpoints may have, by what this process may open.

    Twice of it leave half of the descriptors free: that is what may come in before somebody looks.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MOST
    usable = limit - _open_descriptors() - SPARE
    found = max(LEAST, min(MOST, usable // (4 * max(1, endpoints))))
    if found < MOST:
        why = f"RLIMIT_NOFILE is {limit}: each endpoint takes {found} connections; LimitNOFILE= in the unit raises it"
        log.warning("few file descriptors", why=why)
    return found


class Connections:
    """Those that one endpoint has accepted, for one thread. The newest beyond `most` are closed, once a second; beyond
    twice of it at once. A client of ZeroMQ tries again by itself, so it comes in when others have gone.

    closed: told how many.
    """

    def __init__(self, endpoint: str, most: int, closed: Callable[[int], None]) -> None:
        self._endpoint = endpoint
        self._most = most
        self._closed = closed
        self._inodes: dict[int, int] = {}  # of each descriptor, the oldest first
        self._next_s = 0.0
        self._full = False

    def accepted(self, descriptor: int) -> None:
        """libzmq has taken one in."""
        inode = _inode(descriptor)
        if inode is None:
            return
        self._inodes.pop(descriptor, None)
        self._inodes[descriptor] = inode
        if len(self._inodes) > 2 * self._most:
            self._look()

    def turn(self) -> None:
        """Look once a second; does not wait."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + TURN_S
            self._look()

    def _look(self) -> None:
        """Forget those that are gone, and close those that are too many."""
        self._inodes = {each: inode for each, inode in self._inodes.items() if _inode(each) == inode}
        newest = list(self._inodes.items())[self._most :]
        for descriptor, inode in newest:
            _hang_up(descriptor, inode)
            del self._inodes[descriptor]
        if newest:
            self._closed(len(newest))
        if newest and not self._full:
            self._full = True
            why = f"it has {self._most}, which is all that it may have: newer ones are closed until others go"
            log.warning("too many connections: does a client leak them?", endpoint=self._endpoint, why=why)
        elif self._full and len(self._inodes) < self._most - self._most // 8:
            self._full = False
            log.info("the endpoint has room for connections again", endpoint=self._endpoint)


def _hang_up(descriptor: int, inode: int) -> None:
    """End a connection as its peer would: libzmq then closes it. A descriptor that is another file by now is spared."""
    with suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as held:
        if os.fstat(held.fileno()).st_ino == inode:
            held.shutdown(sockets.SHUT_RDWR)


def _inode(descriptor: int) -> int | None:
    """Which socket a descriptor is, None where it is closed or something else."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_ino if stat.S_ISSOCK(found.st_mode) else None


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
