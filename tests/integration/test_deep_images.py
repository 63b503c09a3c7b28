"""Images of 16 bits that use a small part of the range: learnt, evaluated, replayed and recorded as they are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny_station import tool

from engines.artifact import open_bundle, resolve_bundle
from inspectd.__main__ import main

torch = pytest.importorskip("torch")

SIDE_PX = 64
REGION = {"name": "all", "top_px": 0, "left_px": 0, "height_px": SIDE_PX, "width_px": SIDE_PX, "patches": [[2, 2]]}


def draw(path: Path, seed: int, hole: bool) -> None:
    """A grained plate with a bright bar, with or without a hole, in grey levels 20 000 to 20 400 of 65 535."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE_PX, SIDE_PX), 120.0)
    image[20:44, 8:56] = 190
    if hole:
        row, column = rng.integers(8, SIDE_PX - 24, 2)
        image[row : row + 12, column : column + 12] = 10
        image[row : row + 12 : 4, column : column + 12] = 245
    image += rng.normal(0, 6, image.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), (20_000 + 1.6 * image).clip(0, 65_535).astype(np.uint16))


@pytest.mark.slow
def test_deep_images_go_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Holes are found, evaluation and replay agree to the bit, and 8 bits of the same parts are INVALID."""
    data = tmp_path / "set"
    for number in range(12):
        draw(data / f"train/good/{number:03d}.png", number, hole=False)
    for number in range(4):
        draw(data / f"test/good/{number:03d}.png", 100 + number, hole=False)
        draw(data / f"test/hole/{number:03d}.png", 200 + number, hole=True)
        shallow = cv2.imread(str(data / f"test/good/{number:03d}.png"), cv2.IMREAD_UNCHANGED)
        (tmp_path / "shallow").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"shallow/{number:03d}.png"), (shallow >> 8).astype(np.uint8))
    station = {
        "station": "thermal",
        "camera": {"kind": "folder", "path": str(data / "test" / "good")},
        "locate": {"mode": "off"},
        "canvas": {"height_px": SIDE_PX, "width_px": SIDE_PX},
        "regions": [REGION],
        "model": {"score": "memory"},
        "engine": {"precision": "f32", "threads": 1},
        "records": {"folder": str(tmp_path / "records")},
        "bundles": str(tmp_path / "bundles"),
    }
    settings = tmp_path / "thermal.yaml"
    settings.write_text(yaml.safe_dump(station), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = ["calibrate", "--station", str(settings), "--data", str(data), "--preset", "instant"]
    assert main(asked) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    assert "images of more than 8 bits: a part has" in said
    bundle = open_bundle(resolve_bundle(tmp_path / "bundles"))
    levels = bundle.manifest.settings.levels
    assert levels is not None
    assert 20_000 < levels.black < levels.white < 20_500

    assert main(["evaluate", "--bundle", str(bundle.folder), "--data", str(data), "--json", "--parts", "p.csv"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["invalid"], figures["image_auroc"]) == (0, 1.0)

    def replayed(folder: Path) -> list[dict[str, object]]:
        done = tool("replay", str(folder), "--station", str(settings), "--json", folder=tmp_path)
        parts: list[dict[str, object]] = json.loads(done.stdout)["runs"][0]["parts"]
        return parts

    rejected = sum(part["verdict"] == "REJECT" for part in replayed(data / "test" / "good"))
    assert rejected == figures["false_rejects"]
    assert [part["reason"] for part in replayed(tmp_path / "shallow")] == ["bad_image"] * 4

    assert main(["record", "--station", str(settings), "--count", "3", "--out", str(tmp_path / "footage")]) == 0
    kept = sorted((tmp_path / "footage").glob("*.png"))
    first = cv2.imread(str(kept[0]), cv2.IMREAD_UNCHANGED)
    assert first.dtype == np.uint16
    assert np.array_equal(first[..., 0], cv2.imread(str(data / "test/good/000.png"), cv2.IMREAD_UNCHANGED))
