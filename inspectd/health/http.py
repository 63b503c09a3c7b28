"""HTTP on the loopback: /metrics for Prometheus, /ready for whoever starts things."""

from __future__ import annotations

import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Thread
from typing import Any

import structlog

from inspectd.errors import EndpointError

TEXT_TYPE = "text/plain; charset=utf-8"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLOWEST_CLIENT_S = 5.0
MOST_CLIENTS = 16
"""At once: each takes a thread and a file descriptor."""
log = structlog.get_logger(__name__)


class MetricsServer:
    """Serves on 127.0.0.1:`port` from its own thread until closed. Raises EndpointError where the port is in use.

    ready: whether parts are judged now, and one line that says how the daemon is.
    """

    def __init__(self, port: int, *, metrics: Callable[[], bytes], ready: Callable[[], tuple[bool, str]]) -> None:
        try:
            self._server = _Server(("127.0.0.1", port), _handler(metrics, ready))
        except OSError as error:
            raise EndpointError(f"127.0.0.1:{port}: {error.strerror}; change outputs.metrics_port") from error
        self.port = int(self._server.server_address[1])
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving; blocks for a fraction of a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Closes at once who comes while MOST_CLIENTS are being answered."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = BoundedSemaphore(MOST_CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, where there is one left."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was started
            self._free.release()
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is one line of the log, where Python would print many."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.exception("a request over HTTP could not be answered")

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def _handler(metrics: Callable[[], bytes], ready: Callable[[], tuple[bool, str]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Two fixed pages."""

        timeout = SLOWEST_CLIENT_S

        def do_GET(self) -> None:
            """Answer /metrics and /ready; anything else is 404."""
            if self.path == "/metrics":
                self._reply(200, metrics(), METRICS_TYPE)
            elif self.path == "/ready":
                is_ready, how = ready()
                self._reply(200 if is_ready else 503, f"{how}\n".encode(), TEXT_TYPE)
            else:
                self._reply(404, b"/metrics or /ready\n", TEXT_TYPE)

        def log_message(self, *_: object) -> None:
            """Requests are no news."""

        def _reply(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
