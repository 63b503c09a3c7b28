"""`locate.mode: part` the whole way: good frames, `calibrate`, a bundle with the template, `evaluate`, a replay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from line_values import free_port
from locating.drawn_parts import Pose, bracket, random_pose, scratched, shape
from tiny_station import tool

from engines.alignment import TEMPLATE_NAME
from engines.artifact import BundleWriter, ManifestContent, open_bundle, resolve_bundle
from engines.errors import BundleError
from inspectd.__main__ import main
from inspectd.config import Station, load_station
from inspectd.loading import find_bundle, load_engine, locate_part
from inspectd.locate import Locator
from inspectd.messages import Outcome, Reason
from inspectd.replay.footage import FootagePart
from inspectd.replay.line import ReplayLine

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

STEPS = {"steps": 3, "decoder_steps": 0, "discriminator_steps": 3, "batch": 8}
GOOD, TEST = 24, 4


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def _settings(folder: Path, **locate: str) -> Path:
    side = {"height_px": 96, "width_px": 96}
    station = {
        "station": "bracket",
        "camera": {"kind": "folder", "path": str(folder / "set" / "test" / "good")},
        "locate": locate or {"mode": "part"},
        "canvas": side,
        "regions": [{"name": "whole", "top_px": 0, "left_px": 0, **side}],
        "model": {"decoder": False, "quick": STEPS},
        "engine": {"precision": "f32", "threads": 1},
        "outputs": {name: f"tcp://127.0.0.1:{free_port()}" for name in ("results", "queries")},
        "records": {"folder": str(folder / "records")},
        "bundles": str(folder / "bundles"),
    }
    path = folder / "bracket.yaml"
    path.write_text(yaml.safe_dump(station), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a labelled set of turned brackets, and a bundle calibrated from its good ones."""
    folder = tmp_path_factory.mktemp("part")
    for index in range(GOOD):
        _write(folder / "set" / "train" / "good" / f"{index:03d}.png", bracket(random_pose(index), seed=index))
    for index in range(TEST):
        seed = 400 + index
        _write(folder / "set" / "test" / "good" / f"{index:03d}.png", bracket(random_pose(seed), seed=seed))
        _write(folder / "set" / "test" / "scratch" / f"{index:03d}.png", scratched(random_pose(seed), seed=seed))
    _write(folder / "set" / "test" / "other" / "000.png", bracket(Pose(x=0, y=120)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["calibrate", "--station", str(_settings(folder)), "--data", str(folder / "set")]) == 0
        yield folder
    torch.set_num_threads(threads)


def _station(place: Path) -> Station:
    return load_station(str(_settings(place)))


def test_the_bundle_carries_the_template_hashed_like_the_rest(place: Path) -> None:
    """Another template beside the same manifest is refused."""
    bundle = open_bundle(resolve_bundle(place / "bundles"))
    assert TEMPLATE_NAME in bundle.manifest.files
    copy = place / "copy"
    shutil.copytree(bundle.folder, copy)
    (copy / TEMPLATE_NAME).chmod(0o644)
    raw = bytearray((copy / TEMPLATE_NAME).read_bytes())
    raw[2000] ^= 1
    (copy / TEMPLATE_NAME).write_bytes(bytes(raw))
    with pytest.raises(BundleError, match=rf"{TEMPLATE_NAME}: was changed"):
        open_bundle(copy)


def test_the_line_finds_parts_by_the_bundles_template(place: Path) -> None:
    """An engine brings the template of its own bundle: what the station alone knows finds nothing."""
    station = _station(place)
    engine = load_engine(station, find_bundle(station, None))
    try:
        line = ReplayLine(
            "bracket", engine=engine, locate=locate_part(Locator(station.locate, station.canvas)), invalid_action="stop"
        )
        pose = random_pose(900)
        part = FootagePart(part_id="a", source="", file="", image=bracket(pose, seed=900), fault="")
        first, second = line.judge(part), line.judge(part)
        cut = line.judge(replace(part, image=bracket(Pose(x=0, y=120)))).verdict
        other = line.judge(replace(part, image=shape([(-90, -8), (90, -8), (90, 8), (-90, 8)]))).verdict
    finally:
        engine.runtime.close()
    assert first.pose is not None
    assert abs(first.pose.x_px - pose.x) < 12
    assert first.pose == second.pose
    assert first.verdict.part_score == second.verdict.part_score
    assert (cut.outcome, cut.reason) == (Outcome.INVALID, Reason.PART_CUT_OFF)
    assert (other.outcome, other.reason) == (Outcome.INVALID, Reason.OTHER_PART)


def test_evaluate_and_replay_locate_as_the_daemon_does(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No good and no scratched part is INVALID, the one that is cut off is; a replay repeats itself."""
    assert main(["evaluate", "--bundle", "bundles", "--data", "set", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["invalid_reasons"] == {"part_cut_off": 1}
    runs = [
        json.loads(tool("replay", "set/test/good", "--station", str(_settings(place)), "--json", folder=place).stdout)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    parts = runs[0]["runs"][0]["parts"]
    assert len(parts) == TEST
    assert all(part["part_score"] > 0 for part in parts)


def test_check_says_where_the_part_lies(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the bundle's template."""
    assert main(["check", "--station", str(_settings(place))]) == 0, capsys.readouterr().out
    assert "part at (" in capsys.readouterr().out


def test_record_keeps_whole_frames(place: Path) -> None:
    """What the part looks like is learnt from them: nothing is left out for its look."""
    assert main(["record", "--station", str(_settings(place)), "--count", "4", "--out", str(place / "new")]) == 0
    assert len(list((place / "new").glob("*.png"))) == 4


def test_a_bundle_without_its_template_is_refused_in_one_line(place: Path, tmp_path: Path) -> None:
    """As one made by a tool that leaves files out: the daemon does not start, and says what to do."""
    made = open_bundle(resolve_bundle(place / "bundles"))
    content = {name: getattr(made.manifest, name) for name in ManifestContent.model_fields}
    with BundleWriter(tmp_path, "bracket") as writer:
        for name in set(made.manifest.files) - {TEMPLATE_NAME}:
            (writer.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made.path(name), writer.folder / name)
        bare = writer.write(ManifestContent.model_validate(content))
    station = _station(place)
    with pytest.raises(BundleError, match=r"has no file locate\.npz; calibrate again"):
        load_engine(station, find_bundle(station, bare.folder))


def test_surfaces_are_refused_with_a_proposal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames without one part before a background: what was seen, and `mode: off` as the way out."""
    for index in range(20):
        grain = np.random.default_rng(index).normal(128, 40, (96, 96, 3))
        _write(tmp_path / "set" / f"{index:03d}.png", np.clip(cv2.blur(grain, (5, 5)), 0, 255).astype(np.uint8))
    assert main(["calibrate", "--station", str(_settings(tmp_path)), "--data", str(tmp_path / "set")]) == 5
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("inspectd:")]
    assert len(lines) == 1
    assert "stands out from the background" in lines[0]
    assert 'mode: "off"' in lines[0]
