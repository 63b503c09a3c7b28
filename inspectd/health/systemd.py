"""systemd's notification protocol (sd_notify): a few datagrams, no library."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from inspectd.errors import EndpointError


class Notifier:
    """Tells systemd READY, STATUS, WATCHDOG and STOPPING; does nothing without an address."""

    def __init__(self, address: str | None) -> None:
        """address: NOTIFY_SOCKET's value, '@name' for an abstract socket. Raises EndpointError for an unusable one."""
        self._socket: socket.socket | None = None
        if address is None:
            return
        if address[:1] not in {"/", "@"}:
            raise EndpointError(f"NOTIFY_SOCKET {address!r}: must begin with / or @")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            self._socket.close()
            raise EndpointError(f"NOTIFY_SOCKET {address!r}: {error.strerror}") from error
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tell(self, **fields: str) -> None:
        """Send e.g. READY='1', STATUS='running'. Never blocks; a notice that cannot leave is given up."""
        if self._socket is None:
            return
        text = "\n".join(f"{name}={value.replace(chr(10), ' ')}" for name, value in fields.items())
        try:
            self._socket.send(text.encode())
        except OSError:
            return  # systemd restarted or its buffer is full; the next beat comes soon

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
