"""More triggers than can be judged, triggers that are too old, and part ids of every kind: each gets its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zmq
from line_values import free_port
from test_daemon import Daemon, daemon
from test_hostile_clients import status

from inspectd.records.reading import RecordReader

Context = zmq.Context[zmq.Socket[bytes]]
FLOOD = 4_000


def asking(context: Context, endpoint: str) -> zmq.Socket[bytes]:
    """A trigger source that keeps whatever the daemon has not read yet."""
    source = context.socket(zmq.PUSH)
    source.set_hwm(0)
    source.linger = 0
    source.connect(endpoint)
    return source


def answered(running: Daemon, count: int) -> dict[str, Any]:
    """The health message once so many verdicts were given."""
    while True:
        now: dict[str, Any] = status(running)
        if sum(now["verdicts"].values()) >= count:
            return now


def test_a_flood_of_triggers_is_answered_and_the_daemon_goes_on(tmp_path: Path, context: Context) -> None:
    """Four thousand at once: each has one verdict and one record, most are overload, and the next part is judged."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with daemon(tmp_path, trigger={"source": "zmq", "endpoint": endpoint}) as running:
        with asking(context, endpoint) as source:
            for _ in range(FLOOD):
                source.send(b"{}")
            answered(running, FLOOD)
            source.send(b'{"part_id": "after"}')
            now = answered(running, FLOOD + 1)
        assert now["counts"]["triggers"] == FLOOD + 1
        code, log = running.end()
    assert code == 0
    assert not [line for line in log if line["event"] == "stage failed"]
    assert len([line for line in log if "overload" in line["event"]]) <= now["uptime_s"] + 2
    with RecordReader(tmp_path / "records" / "test") as reader:
        parts = list(reader.all())
    assert [part.verdict.seq for part in parts] == list(range(1, FLOOD + 2))
    assert parts[-1].verdict.part_id == "after"
    assert parts[-1].verdict.reason.value in {"within_limits", "over_threshold"}
    assert sum(part.verdict.reason.value == "overload" for part in parts) > FLOOD / 2


def test_triggers_that_come_too_late_do_not_count_as_the_daemons_lateness(tmp_path: Path, context: Context) -> None:
    """A sender whose age_ms is beyond the deadline: INVALID (late), degraded with the reason, never stalled."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with daemon(tmp_path, trigger={"source": "zmq", "endpoint": endpoint}) as running:
        with asking(context, endpoint) as source:
            for _ in range(40):
                source.send(b'{"age_ms": 30000}')
            now = answered(running, 40)
        assert now["state"] == "degraded"
        assert any("too old for their deadline" in why for why in now["why"])
        assert (now["counts"]["triggers_overdue"], now["counts"]["deadlines_missed"]) == (40, 0)
        assert running.end()[0] == 0


def test_a_part_is_judged_whatever_its_id_is(tmp_path: Path, context: Context) -> None:
    """A no-read, a line end, a separator, a number: judged, recorded with what was sent, and health says so once."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    sent: list[Any] = ["", "A-17\r\n", "01\x1d02", "\u00a0B\u00a0", "x" * 129, 17, None]
    with daemon(tmp_path, trigger={"source": "zmq", "endpoint": endpoint}) as running:
        with asking(context, endpoint) as source:
            for number, part_id in enumerate(sent, start=1):
                source.send(json.dumps({"part_id": part_id, "shift": 3, "encoder": 2.5}).encode())
                now = answered(running, number)
        assert now["verdicts"]["PASS"] + now["verdicts"]["REJECT"] == len(sent)
        assert now["state"] == "degraded"
        assert any("field that was put right" in why for why in now["why"])
        assert running.end()[0] == 0
    with RecordReader(tmp_path / "records" / "test") as reader:
        verdicts = [part.verdict for part in reader.all()]
    assert [verdict.part_id for verdict in verdicts] == ["test-1", "A-17", "test-3", "B", "test-5", "17", "test-7"]
    assert [verdict.sent_id for verdict in verdicts] == ["", "A-17\r\n", "01\x1d02", "\u00a0B\u00a0", "x" * 129, "", ""]
    assert {verdict.encoder for verdict in verdicts} == {2}
