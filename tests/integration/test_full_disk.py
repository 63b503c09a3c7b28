"""A disk that takes no more, at whatever point of a calibration: exit code 8, one line with the file, nothing half."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from engines.writing import writing

pytest.importorskip("torch")
SIDE_PX = 64
MOST_BYTES = 200_000
REGION = {"name": "all", "top_px": 0, "left_px": 0, "height_px": SIDE_PX, "width_px": SIDE_PX, "patches": [[2, 2]]}


@pytest.mark.slow
def test_a_calibration_on_a_full_disk_says_so(tmp_path: Path) -> None:
    """Where no file may grow any further, as on a full disk: minutes of work end with what to do."""
    data = tmp_path / "parts"
    data.mkdir()
    for number in range(6):
        image = np.random.default_rng(number).normal(120, 6, (SIDE_PX, SIDE_PX))
        image[20:44, 8:56] += 70
        cv2.imwrite(str(data / f"{number}.png"), image.clip(0, 255).astype(np.uint8))
    settings = {
        "station": "full",
        "camera": {"kind": "folder", "path": str(data)},
        "locate": {"mode": "off"},
        "canvas": {"height_px": SIDE_PX, "width_px": SIDE_PX},
        "regions": [REGION],
        "model": {"score": "memory"},
        "engine": {"precision": "f32", "threads": 1},
    }
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "inspectd", "calibrate", "--station", str(path), "--data", str(data)]
    done = subprocess.run(
        [*command, "--preset", "instant", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES)),
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 8, last
    assert last.startswith(f"inspectd: {tmp_path / 'out'}")
    assert last.endswith("free space or choose another folder")
    assert [entry for entry in (tmp_path / "out").rglob("*") if entry.is_file()] == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("[enforce fail at inline_container.cc:595] . PytorchStreamWriter failed writing file data/0"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(28, "No space left on device"),
    ],
)
def test_what_libraries_make_of_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, error: Exception) -> None:
    """Each has its own; the file is named in all of them."""
    with pytest.raises(OSError, match="No space left") as found, writing(tmp_path / "model.bin"):
        raise error
    assert found.value.filename == str(tmp_path / "model.bin")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    """A wrong argument is no full disk."""
    with pytest.raises(ValueError, match="shape"), writing(tmp_path / "model.bin"):
        raise ValueError("shape mismatch")
    assert os.statvfs(tmp_path).f_bavail
