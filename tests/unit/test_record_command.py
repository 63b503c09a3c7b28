"""`inspectd record`: what it refuses, and that a try which fails is not in the way of the next one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from inspectd.__main__ import main


@pytest.fixture
def station(tmp_path: Path) -> Path:
    """A station whose camera cannot be opened."""
    file = tmp_path / "bench.yaml"
    region = {"name": "whole", "top_px": 0, "left_px": 0, "height_px": 128, "width_px": 128}
    settings = {
        "station": "bench",
        "camera": {"kind": "video", "path": str(tmp_path / "none.avi")},
        "model": {"decoder": False},
        "regions": [region],
    }
    file.write_text(yaml.safe_dump(settings))
    return file


def test_a_camera_that_fails_leaves_the_folder_for_the_next_try(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both tries end with the camera's line and code 6, not the second one with a folder that is not empty."""
    for _ in range(2):
        assert main(["record", "--station", str(station), "--count", "3", "--out", str(tmp_path / "out")]) == 6
        assert "none.avi: no such video file" in capsys.readouterr().err


def test_no_parts_at_all_is_wrong_usage(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--count 0` is refused by the command line with code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["record", "--station", str(station), "--count", "0"])
    assert ended.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(("wanted", "offered"), [(20, 0), (21, 1)])
def test_a_first_bundle_is_offered_while_recording_goes_on(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: int, offered: int
) -> None:
    """After the twentieth good part one line says how to make a bundle of them; not where none is to follow."""
    settings = yaml.safe_load(station.read_text())
    settings["camera"] = {"kind": "simulated", "defect_share": 0.0}
    settings["trigger"] = {"source": "timer", "period_ms": 5}
    station.write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    assert main(["record", "--station", str(station), "--count", str(wanted), "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"inspectd calibrate --station {station} --data {out} --preset instant") == offered
