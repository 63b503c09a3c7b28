"""The log: lines arrive in order, and a standard error that nobody reads stalls nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
