"""`inspectd check`: what would keep the daemon from starting is found before it starts."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from inspectd.__main__ import main


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
