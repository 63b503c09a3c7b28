"""Activation and rollback: what is active, and the way back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from bundle_making import make_bundle

from engines.artifact import activate, active_bundle, list_bundles, open_bundle, resolve_bundle, rollback
from engines.errors import BundleError


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Three bundles of station line1, by short hash."""
    return [make_bundle(tmp_path, seed=seed).short_hash for seed in range(3)]


def test_activate_and_read(tmp_path: Path, three: list[str]) -> None:
    """The bundle that was activated last is the active one."""
    for short in three:
        activate(tmp_path, "line1", short)
        assert active_bundle(tmp_path, "line1") == tmp_path / "line1" / short
        assert resolve_bundle(tmp_path).name == short


def test_rollback_goes_further_back_each_time(tmp_path: Path, three: list[str]) -> None:
    """Rolling back twice reaches the bundle before the last, and a third time there is none."""
    for short in three:
        activate(tmp_path, "line1", short)
    assert rollback(tmp_path, "line1") == (three[2], three[1])
    assert rollback(tmp_path, "line1") == (three[1], three[0])
    with pytest.raises(BundleError, match="nothing to go back to"):
        rollback(tmp_path, "line1")
    assert active_bundle(tmp_path, "line1").name == three[0]


def test_rollback_after_new_activation(tmp_path: Path, three: list[str]) -> None:
    """What was rolled back from is not returned to by a later rollback."""
    activate(tmp_path, "line1", three[0])
    activate(tmp_path, "line1", three[1])
    rollback(tmp_path, "line1")
    activate(tmp_path, "line1", three[2])
    assert rollback(tmp_path, "line1") == (three[2], three[0])


def test_rollback_survives_a_torn_history(tmp_path: Path, three: list[str]) -> None:
    """A history line cut off by a power cut costs that line only."""
    activate(tmp_path, "line1", three[0])
    activate(tmp_path, "line1", three[1])
    with (tmp_path / "line1" / "history.jsonl").open("a") as file:
        file.write('{"action": "activ')
    assert rollback(tmp_path, "line1") == (three[1], three[0])
    with pytest.raises(BundleError, match="nothing to go back to"):
        rollback(tmp_path, "line1")


def test_broken_bundle_is_not_activated(tmp_path: Path, three: list[str]) -> None:
    """A changed bundle cannot become active, neither by activation nor by rollback."""
    activate(tmp_path, "line1", three[0])
    activate(tmp_path, "line1", three[1])
    for short in (three[0], three[2]):
        path = tmp_path / "line1" / short / "graph.onnx"
        path.chmod(0o644)
        path.write_bytes(b"graph ?")
    with pytest.raises(BundleError, match="was changed"):
        activate(tmp_path, "line1", three[2])
    with pytest.raises(BundleError, match="was changed"):
        rollback(tmp_path, "line1")
    assert active_bundle(tmp_path, "line1").name == three[1]


@pytest.mark.parametrize("short", ["", "../../etc", "0123456789abcdef", "xyz"])
def test_unknown_hash_is_one_line(tmp_path: Path, three: list[str], short: str) -> None:
    """A hash that is none, or of no bundle, is refused."""
    with pytest.raises(BundleError, match="`inspectd bundles` lists them"):
        activate(tmp_path, "line1", short)


def test_no_active_bundle_says_what_to_do(tmp_path: Path) -> None:
    """A station that was never calibrated says so."""
    with pytest.raises(BundleError, match="run `inspectd calibrate`"):
        active_bundle(tmp_path, "line1")


def test_active_link_out_of_the_station_is_refused(tmp_path: Path, three: list[str]) -> None:
    """An `active` that points elsewhere is not followed."""
    other = make_bundle(tmp_path, station="line2")
    (tmp_path / "line1" / "active").symlink_to(other.folder)
    with pytest.raises(BundleError, match="is no bundle here"):
        active_bundle(tmp_path, "line1")


def test_list_shows_broken_ones(tmp_path: Path, three: list[str]) -> None:
    """A bundle whose manifest is broken is listed with its fault; the active one is marked."""
    activate(tmp_path, "line1", three[1])
    path = tmp_path / "line1" / three[0] / "manifest.json"
    path.chmod(0o644)
    path.write_text("{")
    found = {summary.short_hash: summary for summary in list_bundles(tmp_path, "line1")}
    assert set(found) == set(three)
    assert "broken" in found[three[0]].fault
    assert [short for short, summary in found.items() if summary.active] == [three[1]]


def test_readers_always_find_an_active_bundle(tmp_path: Path, three: list[str]) -> None:
    """While bundles are activated, every reader sees one or the other, never none and never half of one."""
    activate(tmp_path, "line1", three[0])
    stop = threading.Event()

    def switch() -> None:
        for turn in range(60):
            activate(tmp_path, "line1", three[turn % 3])
        stop.set()

    writer = threading.Thread(target=switch)
    writer.start()
    seen = set()
    while not stop.is_set():
        seen.add(open_bundle(active_bundle(tmp_path, "line1")).short_hash)
    writer.join()
    assert seen <= set(three)


def test_a_link_to_itself_is_one_line(tmp_path: Path, three: list[str]) -> None:
    """`active` that leads to itself is told as such, not as a fault of ours."""
    link = tmp_path / "line1" / "active"
    link.unlink(missing_ok=True)
    link.symlink_to("active")
    with pytest.raises(BundleError, match="points to active, which is no bundle here"):
        active_bundle(tmp_path, "line1")


def test_a_folder_that_may_not_be_read_is_one_line(
    tmp_path: Path, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the file system refuses, the line names the path and says what to look at."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_symlink", refuse)
    monkeypatch.setattr(Path, "is_dir", refuse)
    monkeypatch.setattr(Path, "is_file", refuse)
    for command in (active_bundle, rollback, list_bundles):
        with pytest.raises(BundleError, match=r"line1.*permission denied; check who owns the bundles"):
            command(tmp_path, "line1")
