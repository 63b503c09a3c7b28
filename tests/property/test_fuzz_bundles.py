"""Bundles: every hash is checked before anything is parsed; whatever else lies in the folder is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_making import make_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.artifact import open_bundle
from engines.errors import BundleError

LIMITS = settings(max_examples=120, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle in the folder that is named after its hash."""
    return make_bundle(tmp_path_factory.mktemp("sealed")).folder


def copy(sealed: Path, folder: Path, name: str = "") -> Path:
    """The bundle again, writable, in a folder of its own: named after its hash, or by `name`."""
    target = folder / (name or sealed.name)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(sealed, target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def refusal(folder: Path) -> str:
    """The one line with which the bundle is refused; empty where it opens."""
    said = ""
    try:
        open_bundle(folder)
    except BundleError as error:
        said = str(error)
    assert not said or said.isprintable()
    return said


@LIMITS
@given(at=st.integers(0, 1 << 20), more=st.binary(max_size=8), length=st.integers(0, 8) | st.just(1 << 20))
def test_a_changed_manifest_is_refused_by_its_hash_alone(
    tmp_path: Path, sealed: Path, at: int, more: bytes, length: int
) -> None:
    """Any other bytes, whatever they are, also those that no JSON reader survives: changed, not misread."""
    folder = copy(sealed, tmp_path)
    manifest = folder / "manifest.json"
    good = manifest.read_bytes()
    at %= len(good)
    data = good[:at] + more + good[at + length :]
    manifest.write_bytes(data)
    assert ("manifest.json was changed" in refusal(folder)) is (data != good)


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"1" * 100_000, b'{"a": NaN}'])
@pytest.mark.parametrize("name", ["", "unpacked"])
def test_a_manifest_that_no_reader_survives_is_refused(tmp_path: Path, sealed: Path, name: str, data: bytes) -> None:
    """Deep, huge, not UTF-8, empty: one line, under the bundle's own name and in a folder of any name."""
    folder = copy(sealed, tmp_path, name)
    (folder / "manifest.json").write_bytes(data)
    assert "manifest.json" in refusal(folder)


@LIMITS
@given(steps=st.lists(st.integers(0, 100), min_size=1, max_size=5), value=JSON, name=st.text(max_size=12) | st.none())
def test_a_forged_manifest_is_taken_or_refused(
    tmp_path: Path, sealed: Path, steps: list[int], value: Any, name: str | None
) -> None:
    """Any value in place of any field, any name beside it, in a folder of any name: opens, or one line."""
    folder = copy(sealed, tmp_path, "unpacked")
    manifest = json.loads((folder / "manifest.json").read_text())
    inner: Any = manifest
    for step in steps[:-1]:
        children = list(inner.values()) if isinstance(inner, dict) else inner
        if (
            not isinstance(children, list)
            or not children
            or not isinstance(children[step % len(children)], dict | list)
        ):
            break
        inner = children[step % len(children)]
    if isinstance(inner, dict):
        inner[name if name is not None or not inner else list(inner)[steps[-1] % len(inner)]] = value
    elif inner:
        inner[steps[-1] % len(inner)] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refusal(folder)


@LIMITS
@given(file=st.integers(0, 100), at=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_one_flipped_bit_in_any_file_is_found(tmp_path: Path, sealed: Path, file: int, at: int, bit: int) -> None:
    """Graph, weights, golden images, report: the file is named before anybody parses it."""
    folder = copy(sealed, tmp_path)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    path = files[file % len(files)]
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert refusal(folder).startswith(f"{path}: was changed")


def truncated(path: Path) -> None:
    """Cut off."""
    path.write_bytes(path.read_bytes()[:-1])


def linked(path: Path) -> None:
    """The right bytes, elsewhere."""
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)
    aside.rename(path.parent.parent / "aside")


def pipe(path: Path) -> None:
    """A pipe in its place."""
    path.unlink()
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def added(path: Path) -> None:
    """One file more."""
    path.with_name("more").write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, linked, pipe, folder_instead, added, Path.unlink])
@pytest.mark.parametrize("name", ["graph.onnx", "manifest.json"])
def test_a_folder_that_differs_is_refused(
    tmp_path: Path, sealed: Path, damage: Callable[[Path], None], name: str
) -> None:
    """Truncated, linked, a pipe, a folder, a file more, a file less: refused at once, none is waited for."""
    folder = copy(sealed, tmp_path)
    damage(folder / name)
    assert str(folder) in refusal(folder)


def test_an_empty_pipe_with_the_right_hash_is_no_file(tmp_path: Path, sealed: Path) -> None:
    """A forged manifest that lists a pipe of size 0 by the hash of nothing: refused, not waited for."""
    folder = copy(sealed, tmp_path, "unpacked")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["pipe"] = {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.mkfifo(folder / "pipe")
    assert refusal(folder).startswith(f"{folder / 'pipe'}: is no file")


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/../../secret", "./graph.onnx", "a//b", "a\\b", "..", "", "a/", "a\n", ".hidden"],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, sealed: Path, name: str) -> None:
    """No file outside the bundle is opened, whatever the manifest calls it."""
    (tmp_path / "secret").write_bytes(b"")
    folder = copy(sealed, tmp_path, "unpacked")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json: files" in refusal(folder)
