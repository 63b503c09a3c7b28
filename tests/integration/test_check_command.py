"""`inspectd check`: what would keep the daemon from starting is found before it starts."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_station as tiny
import yaml

from inspectd.__main__ import main
from inspectd.commands.check import speed, threads
from inspectd.config import load_station


def _station(folder: Path, metrics_port: int) -> Path:
    """A station without a bundle, whose endpoints and records lie in `folder`."""
    settings = {
        "station": "bench",
        "camera": {"kind": "video", "path": str(folder / "none.avi")},
        "model": {"decoder": False},
        "regions": [{"name": "whole", "top_px": 0, "left_px": 0, "height_px": 128, "width_px": 128}],
        "outputs": {
            "results": f"ipc://{folder}/results.ipc",
            "queries": f"ipc://{folder}/queries.ipc",
            "metrics_port": metrics_port,
        },
        "records": {"folder": str(folder / "records")},
        "bundles": str(folder / "bundles"),
    }
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_every_fault_is_one_line_and_the_first_one_gives_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bundle, no video, a full disk, a metrics port in use: four lines, each with what is wrong."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["check", "--station", str(_station(tmp_path, port))]) == 4
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == ["engine", "camera", "records", "ports"]
    assert "no such video file" in wrong[1]
    assert "the disk is full (4096 bytes left)" in wrong[2]
    assert f"127.0.0.1:{port}: Address already in use" in wrong[3]


@pytest.mark.parametrize(
    ("times_ms", "trigger", "status", "holds"),
    [
        ([9, 10, 40], {"source": "timer", "period_ms": 20}, "ok", "trigger.period_ms: 20 and line.deadline_ms: 68"),
        ([9, 10, 60], {"source": "timer", "period_ms": 20}, "SLOW", "trigger.period_ms: 20 and line.deadline_ms: 97"),
        ([21, 22, 23], {"source": "timer", "period_ms": 20}, "SLOW", "trigger.period_ms: 33 and line.deadline_ms: 50"),
        ([41, 42, 43], {"source": "camera", "period_ms": 20}, "ok", "line.deadline_ms: 73"),
    ],
)
def test_an_engine_that_cannot_keep_up_is_told_of(
    tmp_path: Path, times_ms: list[float], trigger: dict[str, object], status: str, holds: str
) -> None:
    """By the slowest part against the deadline, and by the usual one against the line's pace where that is known.

    Without headroom, too, the line says which settings this machine holds.
    """
    path = _station(tmp_path, 9095)
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text()), "trigger": trigger, "line": {"deadline_ms": 50}})
    )
    line = speed(load_station(str(path)), np.array(times_ms, np.float64))
    assert line.split()[:2] == [status, "speed"]
    assert f"{times_ms[1]:.1f} ms a part, {times_ms[2]:.1f} ms for the slowest of 3; deadline 50 ms" in line
    assert ("parts will be INVALID" in line) == ("see what else runs here" in line) == (status == "SLOW")
    assert f"this machine holds {holds}" in line
    assert ("one part each 20 ms" in line) == (trigger["source"] == "timer")


@pytest.mark.parametrize(
    ("others_ms", "says"),
    [
        ({2: [12, 12, 13], 4: [9, 9, 9]}, "engine.threads: 2 takes 12.0 ms a part; with it this machine holds "),
        ({2: [25, 26, 27], 4: [20, 21, 22]}, "engine.threads: 4 takes 21.0 ms a part"),
        ({2: [28, 29, 30], 4: [27, 28, 30]}, "engine.threads: 1 is as good as any other (tried 2, 4)"),
        ({}, "engine.threads: 1 is as good as any other (tried none that this machine has a core for)"),
    ],
)
def test_another_number_of_threads_is_proposed_where_it_helps(
    tmp_path: Path, others_ms: dict[int, list[float]], says: str
) -> None:
    """The fewest that hold the line; where none does, the fastest, if it is worth a core."""
    path = _station(tmp_path, 9095)
    trigger = {"source": "timer", "period_ms": 20}
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text()), "trigger": trigger, "line": {"deadline_ms": 50}})
    )
    others = {count: np.array(times_ms, np.float64) for count, times_ms in others_ms.items()}
    line = threads(load_station(str(path)), np.array([30, 31, 32], np.float64), others)
    assert line.split()[:2] == ["ok", "threads"]
    assert says in line


def test_a_station_that_can_run_is_ok_and_timed(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """With a deadline that no machine keeps the engine is SLOW, which keeps no station from starting."""
    station = tiny_station.settings(tmp_path, line={"deadline_ms": 0.001})
    bundle = tiny_station.bundle.folder
    done = tiny.inspectd("check", "--station", str(station), "--bundle", str(bundle), folder=tmp_path)
    assert done.returncode == 0, done.stdout
    names = ["settings", "engine", "speed", "threads", "camera", "records", "ports"]
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["SLOW" if name == "speed" else "ok", name] for name in names
    ]
    assert "deadline 0.001 ms" in done.stdout
