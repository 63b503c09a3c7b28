"""The bundle: what a changed, foreign or half-written one is answered with."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from bundle_making import CANVAS, LOCATE, REGIONS, make_bundle, make_content
from pydantic import ValidationError

from engines.artifact import BundleWriter, Statistic, check_settings, fingerprint, open_bundle, resolve_bundle
from engines.errors import BundleError
from engines.settings import CanvasSettings, ModelSettings, TrainingSettings


def thaw(path: Path) -> Path:
    """Make a sealed file writable again, as somebody with the rights could."""
    path.chmod(0o644)
    return path


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    """A bundle opens from its folder, with the manifest that was written and paths to its files."""
    made = make_bundle(tmp_path)
    opened = open_bundle(made.folder)
    assert opened == made
    assert opened.path("graph.onnx").read_bytes() == b"graph 0"
    assert opened.thresholds.part.value > 0.4
    assert made.folder == tmp_path / "line1" / made.hash[:16]


def test_hash_is_of_the_manifest_file(tmp_path: Path) -> None:
    """`sha256sum manifest.json` gives the bundle's hash."""
    made = make_bundle(tmp_path)
    assert hashlib.sha256((made.folder / "manifest.json").read_bytes()).hexdigest() == made.hash


def test_files_are_read_only(tmp_path: Path) -> None:
    """No file of a bundle can be written by accident."""
    made = make_bundle(tmp_path)
    assert all(path.stat().st_mode & 0o222 == 0 for path in made.folder.rglob("*") if path.is_file())


def test_changed_file_is_refused(tmp_path: Path) -> None:
    """One changed byte in a file is found and the file named."""
    made = make_bundle(tmp_path)
    thaw(made.folder / "graph.onnx").write_bytes(b"graph 1")
    with pytest.raises(BundleError, match=r"graph\.onnx: was changed"):
        open_bundle(made.folder)


def test_changed_size_is_refused(tmp_path: Path) -> None:
    """A file of another size is refused before its bytes are read."""
    made = make_bundle(tmp_path)
    thaw(made.folder / "graph.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"graph\.onnx: 0 bytes, the manifest says 7"):
        open_bundle(made.folder)


def test_changed_manifest_is_refused(tmp_path: Path) -> None:
    """A raised limit in the manifest no longer fits the folder's name."""
    made = make_bundle(tmp_path)
    path = thaw(made.folder / "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["thresholds"]["part"]["value"] = 99.0
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json was changed"):
        open_bundle(made.folder)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is gone is named."""
    made = make_bundle(tmp_path)
    (made.folder / "golden" / "40.png").unlink()
    with pytest.raises(BundleError, match=r"40\.png: is missing"):
        open_bundle(made.folder)


def test_extra_file_is_refused(tmp_path: Path) -> None:
    """A file that the manifest does not list is refused."""
    made = make_bundle(tmp_path)
    (made.folder / "engine.so").write_bytes(b"")
    with pytest.raises(BundleError, match=r"engine\.so: does not belong to the bundle"):
        open_bundle(made.folder)


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    """A listed file that became a link to equal bytes elsewhere is refused."""
    made = make_bundle(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"graph 0")
    (made.folder / "graph.onnx").unlink()
    (made.folder / "graph.onnx").symlink_to(elsewhere)
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(made.folder)


@pytest.mark.parametrize("name", ["../graph.onnx", "/etc/passwd", "a/../../b", "a//b", ".hidden", "a\\b", ""])
def test_path_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A manifest cannot name a file outside its folder."""
    made = make_bundle(tmp_path)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["graph.onnx"]
    moved = made.folder.rename(tmp_path / "copied")
    thaw(moved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json: files"):
        open_bundle(moved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 2}', "\x00" * 50])
def test_broken_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    """A manifest that is no JSON, or of another format, is one line and no traceback."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_no_bundle_there(tmp_path: Path) -> None:
    """A folder without a manifest says so and what to do."""
    with pytest.raises(BundleError, match=r"no bundle here .* run `inspectd calibrate`"):
        open_bundle(tmp_path)


def test_copy_under_another_name_opens(tmp_path: Path) -> None:
    """A bundle copied to a folder of any name opens, with the same hash."""
    made = make_bundle(tmp_path)
    moved = made.folder.rename(tmp_path / "from-usb-stick")
    assert open_bundle(moved).hash == made.hash


def test_unlisted_name_is_refused(tmp_path: Path) -> None:
    """Asking for a file that the manifest does not list is an error, also when it exists."""
    with pytest.raises(BundleError, match=r"has no file manifest\.json"):
        make_bundle(tmp_path).path("manifest.json")


def test_interrupted_writing_leaves_no_bundle(tmp_path: Path) -> None:
    """When calibration fails before `write`, nothing is left behind."""
    with BundleWriter(tmp_path, "line1") as writer:
        (writer.folder / "graph.onnx").write_bytes(b"half")
    assert list((tmp_path / "line1").iterdir()) == []


def test_manifest_names_existing_files_only(tmp_path: Path) -> None:
    """An engine file that was never written is found when the bundle is written, not on the line."""
    with (
        BundleWriter(tmp_path, "line1") as writer,
        pytest.raises(ValidationError, match=r"names golden/40\.png, which is not among"),
    ):
        writer.write(make_content())


def test_writer_refuses_another_station(tmp_path: Path) -> None:
    """What was calibrated for one station is not written as another's."""
    with BundleWriter(tmp_path, "line2") as writer, pytest.raises(BundleError, match="station line1, not line2"):
        writer.write(make_content())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    """A folder of bundles without write permission is one clear line."""
    tmp_path.chmod(0o555)
    with pytest.raises(BundleError, match="cannot be written"):
        BundleWriter(tmp_path, "line1")
    tmp_path.chmod(0o755)


def test_regions_and_thresholds_must_agree() -> None:
    """A manifest whose thresholds name other regions than its settings is refused."""
    content = make_content()
    raw = content.model_dump()
    raw["thresholds"]["regions"]["middle"] = raw["thresholds"]["regions"].pop("left")
    with pytest.raises(ValidationError, match="thresholds for regions"):
        type(content).model_validate(raw)


def test_same_settings_pass(tmp_path: Path) -> None:
    """A bundle serves the settings that it was made for, whatever the training presets are now."""
    model = ModelSettings(quick=TrainingSettings(steps=1, decoder_steps=1), weights_folder="elsewhere")
    check_settings(make_bundle(tmp_path), CANVAS, REGIONS, model, LOCATE)


def test_other_settings_are_named(tmp_path: Path) -> None:
    """The first setting that differs is named with both values."""
    made = make_bundle(tmp_path)
    model = ModelSettings()
    wider = CanvasSettings(height_px=64, width_px=128)
    with pytest.raises(BundleError, match=r"canvas\.width_px: bundle has 96, station has 128"):
        check_settings(made, wider, REGIONS, model, LOCATE)
    moved = (REGIONS[0], REGIONS[1].model_copy(update={"left_px": 50}))
    with pytest.raises(BundleError, match=r"regions\.1\.left_px: bundle has 48, station has 50"):
        check_settings(made, CANVAS, moved, model, LOCATE)
    with pytest.raises(BundleError, match=r"model\.distance: bundle has mse, station has cosine"):
        check_settings(made, CANVAS, REGIONS, ModelSettings(distance="cosine"), LOCATE)
    with pytest.raises(BundleError, match=r"locate\.mode: bundle has off, station has bright_part"):
        check_settings(made, CANVAS, REGIONS, model, {**LOCATE, "mode": "bright_part"})


def test_resolve_takes_what_calibrate_wrote(tmp_path: Path) -> None:
    """The bundle itself, its station's folder and the folder above all mean the only bundle."""
    made = make_bundle(tmp_path)
    for path in (made.folder, made.folder.parent, tmp_path):
        assert open_bundle(resolve_bundle(path)).hash == made.hash


def test_resolve_refuses_to_guess(tmp_path: Path) -> None:
    """A folder of two bundles without an active one is not guessed at; an empty one says what to do."""
    make_bundle(tmp_path, seed=1)
    make_bundle(tmp_path, seed=2)
    with pytest.raises(BundleError, match=r"holds 2 bundles .* name one"):
        resolve_bundle(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="holds no bundle"):
        resolve_bundle(tmp_path / "empty")
    with pytest.raises(BundleError, match="no such folder"):
        resolve_bundle(tmp_path / "absent")


def test_fingerprint_ignores_order() -> None:
    """The same parts in another order are the same data; one part less is not."""
    hashes = ["aa", "bb", "cc"]
    assert fingerprint(hashes) == fingerprint(reversed(hashes))
    assert fingerprint(hashes) != fingerprint(hashes[:2])


def test_statistic_states_mean_spread_and_quantiles() -> None:
    """Reference statistics are the population's, with the median among the quantiles."""
    import numpy as np

    statistic = Statistic.of(np.array([1.0, 2.0, 3.0]))
    assert statistic.mean == 2.0
    assert statistic.std == pytest.approx((2 / 3) ** 0.5)
    assert dict(statistic.quantiles)[0.5] == 2.0
