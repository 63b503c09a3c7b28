"""Each network family the whole way: good parts in a folder, `calibrate`, `evaluate`, replay; next to no training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from tiny_station import tool

from engines.artifact import open_bundle, resolve_bundle
from inspectd.__main__ import main

torch = pytest.importorskip("torch")

STEPS = {"steps": 12, "decoder_steps": 3, "discriminator_steps": 3, "batch": 8}
TRAIN, GOOD, HOLES = 24, 4, 4
SIDE_PX = 64
REGION = {"name": "all", "top_px": 0, "left_px": 0, "height_px": SIDE_PX, "width_px": SIDE_PX, "patches": [[2, 2]]}
FAMILIES: dict[str, dict[str, Any]] = {
    "dtkd": {},
    "stpm": {},
    "rd_two_teachers": {"rd_two_teachers": {"width": 16}},
    "rd_feature_mask": {"rd_feature_mask": {"width": 16}},
}
WAYS = {"f32": "paper", "auto": "calibrated"}
"""Precisions, each with another score, so that every tail is compiled."""


@dataclass(frozen=True)
class Place:
    """A labelled set in MVTec layout, and where bundles of its station go."""

    folder: Path

    @property
    def data(self) -> Path:
        """The set."""
        return self.folder / "set"

    def settings(self, family: str, precision: str) -> Path:
        """Write a station of this family that takes whole images from the set's good test parts."""
        station = {
            "station": family.replace("_", "-"),
            "camera": {"kind": "folder", "path": str(self.data / "test" / "good")},
            "locate": {"mode": "off"},
            "canvas": {"height_px": SIDE_PX, "width_px": SIDE_PX},
            "regions": [REGION],
            "model": {"family": family, "score": WAYS[precision], "quick": STEPS, **FAMILIES[family]},
            "engine": {"precision": precision, "threads": 1},
            "records": {"folder": str(self.folder / "records")},
            "bundles": str(self.folder / "bundles"),
        }
        path = self.folder / "station.yaml"
        path.write_text(yaml.safe_dump(station), encoding="utf-8")
        return path


def draw(path: Path, seed: int, hole: bool) -> np.ndarray:
    """Write a grained plate with a bright bar, with or without a hole, black behind a white grid; its mask."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE_PX, SIDE_PX), 120.0)
    image[20:44, 8:56] = 190
    mask = np.zeros(image.shape, np.uint8)
    if hole:
        row, column = rng.integers(8, SIDE_PX - 24, 2)
        mask[row : row + 12, column : column + 12] = 255
        image[mask > 0] = 10
        image[row : row + 12 : 4, column : column + 12] = 245
    image += rng.normal(0, 6, image.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8))
    return mask


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The set, drawn; commands run in its folder, on one thread, as networks this small gain nothing from more."""
    made = Place(tmp_path)
    for index in range(TRAIN):
        draw(made.data / "train" / "good" / f"{index:03d}.png", index, hole=False)
    for index in range(GOOD):
        draw(made.data / "test" / "good" / f"{index:03d}.png", 100 + index, hole=False)
    for index in range(HOLES):
        mask = draw(made.data / "test" / "hole" / f"{index:03d}.png", 200 + index, hole=True)
        target = made.data / "ground_truth" / "hole" / f"{index:03d}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mask)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("precision", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_the_whole_way(
    place: Place, family: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle is made whose engine keeps parity, most holes score above good parts, and a replay repeats itself."""
    settings = place.settings(family, precision)
    assert main(["calibrate", "--station", str(settings), "--data", str(place.data)]) == 0, capsys.readouterr().err
    bundle = open_bundle(resolve_bundle(place.folder / "bundles"))
    assert bundle.manifest.settings.model.family == family
    assert bundle.manifest.engine.precision in {"f32", "bf16", "int8"}
    capsys.readouterr()
    assert main(["evaluate", "--bundle", str(bundle.folder), "--data", str(place.data), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["good"], figures["defective"], figures["invalid"]) == (GOOD, HOLES, 0)
    assert figures["image_auroc"] >= 0.75
    assert figures["pixel_auroc"] is not None
    if precision == "f32":
        _same_again(place, settings)


def _same_again(place: Place, settings: Path) -> None:
    """The daemon's own stages judge the same images alike, each time."""
    footage = place.data / "test" / "hole"
    first, second = (
        json.loads(tool("replay", str(footage), "--station", str(settings), "--json", folder=place.folder).stdout)
        for _ in range(2)
    )
    assert first == second
    parts = first["runs"][0]["parts"]
    assert len(parts) == HOLES
    assert all(part["part_score"] > 0 for part in parts)
