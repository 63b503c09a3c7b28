"""The log: lines arrive in order, and a standard error that nobody reads stalls nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from line_values import free_port

CODE = """
import structlog
from inspectd import logs
logs.set_up_logging()
log = structlog.get_logger("test")
for number in range({count}):
    log.info("line", number=number)
print("done", flush=True)
"""


def test_lines_arrive_in_order_and_before_the_process_ends() -> None:
    """Every line of a short process is on standard error, as JSON, in order."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(count=50)], capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == list(range(50))


def test_a_log_that_nobody_reads_stalls_nobody() -> None:
    """With a full pipe for standard error the process goes on and ends; nothing waits for the reader."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE.format(count=20_000)], stdout=subprocess.PIPE, stderr=writing, text=True
        )
        output, _ = process.communicate(timeout=60)
    finally:
        os.close(reading)
        os.close(writing)
    assert output == "done\n"
    assert process.returncode == 0


FAULTS = """
import logging, socket, struct, sys, threading, time, warnings
from contextlib import closing
from inspectd import logs
from inspectd.health.http import MetricsServer
logs.set_up_logging()

def reset(port):
    "Ask for the metrics, and reset the connection before they come."
    with socket.create_connection(("127.0.0.1", port)) as scrape:
        scrape.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scrape.sendall(b"GET /metrics HTTP/1.1\\r\\n\\r\\n")
        asked.wait(10)
    gone.set()

def metrics():
    asked.set()
    gone.wait(10)
    return b"x" * (8 << 20)

def fails():
    raise ValueError("in a\\nthread")

class Fails:
    def __del__(self):
        raise ValueError("while it is freed")

asked, gone = threading.Event(), threading.Event()
with closing(MetricsServer({port}, metrics=metrics, ready=lambda: (True, ""))) as server:
    reset(server.port)
    while threading.active_count() > 3:  # this one, the server's and the log's
        time.sleep(0.01)
thread = threading.Thread(target=fails, name="failing")
thread.start()
thread.join()
Fails()
warnings.warn("beware", stacklevel=1)
logging.getLogger("library").warning("of a %s", "library")
"""


def test_whatever_goes_wrong_is_one_line_of_json() -> None:
    """A scrape that is reset is no news; faults of threads, of finalisers and warnings are lines for a collector."""
    code = FAULTS.replace("{port}", str(free_port()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("a thread failed", "error"),
        ("an error was passed over", "error"),
        ("a library says", "warning"),
        ("a library says", "warning"),
    ]
    assert lines[0]["thread"] == "failing"
    assert "in a\\nthread" in json.dumps(lines[0])
    assert "while it is freed" in json.dumps(lines[1])
    assert "beware" in lines[2]["why"]
    assert lines[3]["why"] == "of a library"


def test_a_request_that_fails_for_another_reason_is_told() -> None:
    """Only a client that went away is passed over."""
    code = """
import socket
from contextlib import closing
from inspectd import logs
from inspectd.health.http import MetricsServer
logs.set_up_logging()
with closing(MetricsServer({port}, metrics=lambda: 1 / 0, ready=lambda: (True, ""))) as server:
    with socket.create_connection(("127.0.0.1", server.port)) as scrape:
        scrape.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
        assert scrape.recv(1) == b""
""".replace("{port}", str(free_port()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["event"] == "a request over HTTP could not be answered"
    assert "ZeroDivisionError" in json.dumps(line)
