"""The same good parts and the same seed give the same bundle, in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
SIDE_PX = 64
REGION = {"name": "all", "top_px": 0, "left_px": 0, "height_px": SIDE_PX, "width_px": SIDE_PX, "patches": [[2, 2]]}


@pytest.mark.slow
def test_two_calibrations_of_one_seed_are_equal_to_the_bit(tmp_path: Path) -> None:
    """Limits, constants and golden scores; what differs is the time at which it was made."""
    data = tmp_path / "parts"
    data.mkdir()
    for number in range(10):
        image = np.random.default_rng(number).normal(120, 6, (SIDE_PX, SIDE_PX))
        image[20:44, 8:56] += 70
        cv2.imwrite(str(data / f"{number}.png"), image.clip(0, 255).astype(np.uint8))
    settings = {
        "station": "twice",
        "camera": {"kind": "folder", "path": str(data)},
        "locate": {"mode": "off"},
        "canvas": {"height_px": SIDE_PX, "width_px": SIDE_PX},
        "regions": [REGION],
        "model": {"score": "memory"},
        "engine": {"precision": "f32", "threads": 1},
    }
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    runs = []
    for number, padding in enumerate(("x", "x" * 4097)):  # another environment: memory lies elsewhere
        command = [sys.executable, "-m", "inspectd", "calibrate", "--station", str(path), "--data", str(data)]
        command += ["--preset", "instant", "--out", str(tmp_path / str(number)), "--work", str(tmp_path / f"w{number}")]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PADDING": padding}
        runs.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path))
    assert [run.wait(300) for run in runs] == [0, 0]
    made = [json.loads(next((tmp_path / str(number)).glob("twice/*/manifest.json")).read_text()) for number in range(2)]
    for name in ("thresholds", "golden", "reference", "lambdas", "data", "settings"):
        assert made[0][name] == made[1][name], name
