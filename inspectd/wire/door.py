"""The daemon's door: binds every socket that others reach, bounds their connections, and says who may come in (ZAP)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import structlog
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from inspectd.errors import KeysError
from inspectd.wire.connections import Connections, ceiling
from inspectd.wire.curve import DOMAIN, REFUSALS, as_server, is_tcp
from inspectd.wire.keys import KeyPair, allowed_clients, read_server_key
from inspectd.wire.sockets import Context, Socket, bind
from inspectd.worker import Worker

ZAP = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
FRAMES_OF_CURVE = 7
TURN_MS = 100
ALLOW_LIST_AGE_S = 1.0
LOG_EVERY_S = 60.0
REMEMBERED_ADDRESSES = 1000
STARTS_S, ENDS_S = 5.0, 2.0
log = structlog.get_logger(__name__)


class Guests:
    """Who may come in: the allow-list, read again when it is older than a second. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        """Raises KeysError, one line, for an allow-list or a file in it that cannot be read."""
        self._folder = folder
        self._allowed, faults = allowed_clients(folder)
        if faults:
            raise KeysError(faults[0])
        self._faults: list[str] = []
        self._read_s = time.monotonic()

    @property
    def count(self) -> int:
        """How many clients may come in."""
        return len(self._allowed)

    def name(self, key: bytes) -> str | None:
        """The client's name by its key (Z85), None for one who may not come in."""
        if time.monotonic() - self._read_s > ALLOW_LIST_AGE_S:
            self._read()
        return self._allowed.get(key)

    def _read(self) -> None:
        """A file that is damaged lets nobody in, and is named once; nobody comes in by a list that cannot be read."""
        self._read_s = time.monotonic()
        try:
            self._allowed, faults = allowed_clients(self._folder)
        except KeysError as error:
            self._allowed, faults = {}, [str(error)]
        for fault in faults:
            if fault not in self._faults:
                log.warning("a client's key cannot be used", why=fault)
        self._faults = faults


class Door:
    """Binds the sockets of a daemon. A thread bounds their connections and, where `keys` is given, answers who may come
    in through TCP, which is CURVE then.

    open, then bind from any thread, then close once those sockets are closed. keys: the station's key folder, None for
    plain TCP. endpoints: all that will be bound. refused: called, from that thread, for each one without a right to
    come in. closed: told, from there too, how many connections were closed because their endpoint had too many.
    """

    def __init__(
        self,
        context: Context,
        endpoints: Sequence[str],
        *,
        keys: Path | None,
        refused: Callable[[], None],
        closed: Callable[[int], None],
    ) -> None:
        self._context = context
        self._keys = keys
        self._refused, self._closed = refused, closed
        self._monitors = {endpoint: f"inproc://door-{number}" for number, endpoint in enumerate(endpoints)}
        self._pair: KeyPair | None = None
        self._worker: Worker | None = None
        self._logged_s: dict[str, float] = {}
        self.guests = 0

    def open(self, on_end: Callable[[], None]) -> None:
        """Read the keys and begin to watch, before anything is bound; `on_end` is called where watching ends.

        Raises KeysError.
        """
        guests: Guests | None = None
        if self._keys is not None:
            self._pair = read_server_key(self._keys)
            guests = Guests(self._keys)
            self.guests = guests.count
        self._worker = Worker("door", lambda stop, ready: self._answer(guests, stop, ready), on_end)
        self._worker.start(STARTS_S)

    @property
    def workers(self) -> list[Worker]:
        """The thread that watches, once it was started; with keys, nobody new comes in once it has ended."""
        return [] if self._worker is None else [self._worker]

    def bind(self, kind: int, endpoint: str, bound: int) -> Socket:
        """Bind one of the endpoints, in the thread that will use the socket. Raises EndpointError with one line."""
        pair = self._pair if is_tcp(endpoint) else None

        def guard(socket: Socket) -> None:
            if pair is not None:
                as_server(socket, pair)
            if self._worker is not None:  # else nobody would read it
                refusals = REFUSALS if pair is not None else 0
                socket.monitor(self._monitors[endpoint], zmq.EVENT_ACCEPTED | refusals)

        return bind(self._context, kind, endpoint, bound, guard)

    def close(self) -> bool:
        """Stop watching; False where the thread did not end in time. A second call does nothing."""
        return self._worker is None or self._worker.stop(ENDS_S)

    def _answer(self, guests: Guests | None, stop: Event, ready: Callable[[], None]) -> None:
        with ExitStack() as stack:
            poller = zmq.Poller()
            zap = None if guests is None else self._zap(stack, poller)
            most = ceiling(len(self._monitors))
            connections = {endpoint: Connections(endpoint, most, self._closed) for endpoint in self._monitors}
            monitors: dict[Socket, str] = {}
            for endpoint, address in self._monitors.items():
                monitor = stack.enter_context(closing(self._context.socket(zmq.PAIR)))
                monitor.linger = 0
                monitor.set_hwm(0)  # a full one would hold up the thread that also sends the verdicts
                monitor.connect(address)
                monitors[monitor] = endpoint
                poller.register(monitor, zmq.POLLIN)
            ready()
            while not stop.is_set():
                for socket, _ in poller.poll(TURN_MS):
                    if guests is not None and zap is not None and socket is zap:
                        zap.send_multipart(self._judge(guests, zap.recv_multipart()))
                        continue
                    happened, endpoint = recv_monitor_message(socket), monitors[socket]
                    if happened["event"] == zmq.EVENT_ACCEPTED:
                        connections[endpoint].accepted(happened["value"])
                    else:
                        why = "a client without a key, or with a key for another daemon"
                        self._turned_away(endpoint, why, {"endpoint": endpoint})
                for each in connections.values():
                    each.turn()

    def _zap(self, stack: ExitStack, poller: zmq.Poller) -> Socket:
        zap = stack.enter_context(closing(self._context.socket(zmq.REP)))
        zap.linger = 0
        zap.bind(ZAP)
        poller.register(zap, zmq.POLLIN)
        return zap

    def _judge(self, guests: Guests, asked: list[bytes]) -> list[bytes]:
        """The ZAP reply to one request: version, id, code, text, user, metadata."""
        request = asked[1] if len(asked) > 1 else b""
        well_formed = len(asked) == FRAMES_OF_CURVE and asked[0] == ZAP_VERSION and asked[2] == DOMAIN
        if not well_formed or asked[5] != b"CURVE":
            return [ZAP_VERSION, request, b"500", b"not a CURVE request", b"", b""]
        address, key = asked[3].decode(errors="replace"), z85.encode(asked[6])
        name = guests.name(key)
        if name is None:
            why = "a key that is not on the allow-list"
            self._turned_away(address, why, {"address": address, "public_key": key.decode()})
            return [ZAP_VERSION, request, b"400", b"not on the allow-list", b"", b""]
        log.info("client let in", client=name, address=address)
        return [ZAP_VERSION, request, b"200", b"OK", name.encode(), b""]

    def _turned_away(self, address: str, why: str, seen: dict[str, str]) -> None:
        """Count each, log each address once a minute."""
        self._refused()
        now_s = time.monotonic()
        if now_s - self._logged_s.get(address, -LOG_EVERY_S) < LOG_EVERY_S:
            return
        if len(self._logged_s) >= REMEMBERED_ADDRESSES:
            self._logged_s.clear()
        self._logged_s[address] = now_s
        log.warning("client refused", why=why, **seen)
