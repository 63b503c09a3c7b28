"""An engine that does not reproduce the golden images judges no part, whichever way it is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import tiny_station as tiny

from engines.artifact import Bundle
from inspectd.cameras.simulated import render_part

ENGINE = 9
BUNDLE = 4
ROUTES: dict[str, Callable[[Path, Path, Path], tuple[str, ...]]] = {
    "run": lambda station, bundle, data: ("run", "--station", str(station), "--bundle", str(bundle)),
    "check": lambda station, bundle, data: ("check", "--station", str(station), "--bundle", str(bundle)),
    "challenge": lambda station, bundle, data: (
        "challenge", "--station", str(station), "--bundle", str(bundle), "--data", str(data / "test" / "crack"),
    ),
    "evaluate": lambda station, bundle, data: ("evaluate", "--bundle", str(bundle), "--data", str(data)),
}  # fmt: skip


def perturbed(station: tiny.TinyStation, root: Path) -> Bundle:
    """A bundle whose engine gives its first golden image another score than it says."""
    golden = station.bundle.manifest.golden
    moved = golden[0].model_copy(update={"part_score": golden[0].part_score * 1.5 + 1e3})
    return station.variant(root, golden=(moved, *golden[1:]))


def labelled_set(folder: Path) -> Path:
    """A small set in MVTec layout."""
    for place in ("train/good", "test/good", "test/crack"):
        (folder / place).mkdir(parents=True)
        cv2.imwrite(str(folder / place / "0.png"), render_part(3, len(place)).image[..., ::-1])
    return folder


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_refuses_an_engine_that_scores_otherwise(
    tiny_station: tiny.TinyStation, tmp_path: Path, route: str
) -> None:
    """One line that names the image and what to do, the engine's exit code, and not a single record."""
    station = tiny_station.settings(tmp_path)
    bundle = perturbed(tiny_station, tmp_path / "bundles")
    done = tiny.inspectd(*ROUTES[route](station, bundle.folder, labelled_set(tmp_path / "set")), folder=tmp_path)
    said = (done.stdout if route == "check" else done.stderr).strip().splitlines()
    refusal = [line for line in said if "golden image golden/00-good.png: the part score is off by" in line]
    assert done.returncode == ENGINE, done.stderr
    assert len(refusal) == 1
    assert "calibrate again on this machine" in refusal[0]
    assert "Traceback" not in done.stderr


def test_the_replay_refuses_it_too(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """A comparison of two bundles is worth nothing where one of them does not run as it was made."""
    station = tiny_station.settings(tmp_path)
    bundle = perturbed(tiny_station, tmp_path / "bundles")
    data = labelled_set(tmp_path / "set")
    done = tiny.tool("replay", str(data), "--station", str(station), "--bundle", str(bundle.folder), folder=tmp_path)
    assert done.returncode == ENGINE
    assert "golden image golden/00-good.png" in done.stderr


def test_a_golden_image_that_was_exchanged_is_a_changed_bundle(tiny_station: tiny.TinyStation, tmp_path: Path) -> None:
    """Its hash no longer fits: refused before anything in the bundle is run."""
    station = tiny_station.settings(tmp_path)
    bundle = tiny_station.variant(tmp_path / "bundles")
    golden = bundle.path("golden/00-good.png")
    golden.chmod(0o644)
    golden.write_bytes(bundle.path("golden/01-good.png").read_bytes())
    done = tiny.inspectd("run", "--station", str(station), "--bundle", str(bundle.folder), folder=tmp_path)
    assert done.returncode == BUNDLE
    assert "golden/00-good.png" in done.stderr
