"""The newest number that health names, over real sockets: after a start, while parts are judged, to the bridge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import zmq
from line_values import free_port
from test_daemon import PATIENCE_S, ROOT, daemon
from test_hostile_clients import status

Context = zmq.Context[zmq.Socket[bytes]]
PARTS = 3


def by_message(endpoint: str) -> dict[str, Any]:
    """Settings of a line whose parts come only when the test says so, and have all the time they need."""
    return {"line": {"deadline_ms": 30_000}, "trigger": {"source": "zmq", "endpoint": endpoint}}


def test_health_names_the_newest_number_right_after_a_start(tmp_path: Path, context: Context) -> None:
    """No part has come yet: the number is that of the records, and a bridge that lacks some fetches them at once."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with daemon(tmp_path, **by_message(endpoint)) as first:
        assert status(first)["last_seq"] is None
        with context.socket(zmq.PUSH) as source:
            source.connect(endpoint)
            for _ in range(PARTS):
                source.send(b"{}")
            while sum(status(first)["verdicts"].values()) < PARTS:
                pass
        assert first.end()[0] == 0
    with daemon(tmp_path) as second:
        assert status(second)["last_seq"] == PARTS
        outputs = second.station.outputs
        done = subprocess.run(
            [
                *(sys.executable, str(ROOT / "tools" / "plc_bridge.py"), "--station", "test", "--last-seq", "1"),
                *("--results", outputs.results, "--queries", outputs.queries, "--max-parts", "2"),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            cwd=ROOT,
        )
    assert [int(line.split()[0]) for line in done.stdout.splitlines() if "->" not in line] == [2, 3]


def test_health_names_the_newest_number_while_its_part_is_judged(tmp_path: Path, context: Context) -> None:
    """Parts that came at once wait for a slow engine: the number is that of the last of them, judged or not."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with daemon(tmp_path, engine_ms=2000, **by_message(endpoint)) as running:
        with context.socket(zmq.PUSH) as source:
            source.connect(endpoint)
            for _ in range(PARTS):
                source.send(b"{}")
            while status(running)["counts"]["triggers"] < PARTS:
                pass
        assert status(running)["last_seq"] == PARTS
