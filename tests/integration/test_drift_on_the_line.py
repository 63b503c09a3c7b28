"""The drift watch in the real daemon: a bundle that a user calibrated, parts that became darker, and who is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_station as tiny
import zmq

from inspectd.cameras.simulated import render_part
from inspectd.config import Station, load_station
from inspectd.wire.public import Json, from_bytes, health_topic

PATIENCE_S = 60.0
DEGRADED = 12


def parts(folder: Path, light: float) -> Path:
    """Good parts as calibration saw them, other ones, in so much of its light."""
    folder.mkdir()
    for index in range(60):
        image = render_part(7, 100 + index).image[..., ::-1] * light
        cv2.imwrite(str(folder / f"{index:03d}.png"), image.astype(np.uint8))
    return folder


@contextmanager
def daemon(path: Path, bundle: Path, log: Path) -> Iterator[Station]:
    """`inspectd run` as a process."""
    command = [sys.executable, "-m", "inspectd", "run", "--station", str(path), "--bundle", str(bundle)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=path.parent, stderr=stream, env=tiny.environment())
        try:
            yield load_station(str(path))
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


def health_once(context: zmq.Context[zmq.Socket[bytes]], station: Station, holds: Callable[[Json], bool]) -> Json:
    """The first health message on the topic of which `holds` is true."""
    with context.socket(zmq.SUB) as socket:
        socket.subscribe(health_topic(station.station))
        socket.connect(station.outputs.results)
        end_s = time.monotonic() + PATIENCE_S
        while socket.poll(max(0, round((end_s - time.monotonic()) * 1000))):
            status = from_bytes(socket.recv_multipart()[1], "inspectd.health")
            if holds(status):
                return status
    raise TimeoutError


@pytest.mark.parametrize("light", [1.0, 0.8])
def test_less_light_is_noticed_and_the_same_light_is_not(
    tiny_station: tiny.TinyStation, tmp_path: Path, light: float, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Health turns degraded and names the quantity, `inspectd health` ends with 12; limits and verdicts stay."""
    lax = tiny_station.with_limits(1e6, tmp_path / "lax")  # that the engine rejects dark parts is another test's matter
    footage = parts(tmp_path / "parts", light)
    camera = {"kind": "folder", "path": str(footage), "loop": True}
    path = tiny_station.settings(tmp_path, camera=camera, trigger={"source": "timer", "period_ms": 20})
    log = tmp_path / "log"
    with daemon(path, lax.folder, log) as station:
        if light == 1.0:
            status = health_once(context, station, lambda status: status["verdicts"]["PASS"] >= 150)
            calm = {name for name, reading in status["drift"]["quantities"].items() if reading["since_seq"] is None}
            assert {"brightness", "sharpness", "pose_angle_deg", "pose_scale"} <= calm
            return
        status = health_once(
            context, station, lambda status: status["drift"]["quantities"]["brightness"]["since_seq"] is not None
        )
        asked = tiny.inspectd("health", "--station", str(path), folder=tmp_path)
    assert status["state"] == "degraded"
    assert any(why.startswith("brightness of passed parts has drifted down since part") for why in status["why"])
    assert status["verdicts"]["REJECT"] == 0
    assert asked.returncode == DEGRADED
    assert "brightness of passed parts has drifted down" in asked.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("quantity") == "brightness" and line["direction"] == "down" for line in lines)
