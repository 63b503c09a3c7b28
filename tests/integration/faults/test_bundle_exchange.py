"""Another bundle while the daemon runs: it takes over between two parts, or is refused; the files of a running one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import accounting
from faulting.board import Injection, Kind
from faulty_line import FaultyLine, until
from tiny_station import NAME, TinyStation, inspectd

from engines.artifact import Bundle, activate, open_bundle

Line = Callable[..., FaultyLine]


def own(tiny: TinyStation, folder: Path) -> TinyStation:
    """The tiny station with bundles of its own: those of the other tests stay as they are."""
    shutil.copytree(tiny.bundles, folder, symlinks=True)
    return TinyStation(folder)


def strict(tiny: TinyStation) -> Bundle:
    """The same engine with limits that no part keeps, beside the active one."""
    return tiny.with_limits(-1000.0, tiny.bundles)


def test_the_active_bundle_takes_over_on_sighup_and_on_the_way_back(
    line: Line, tiny_station: TinyStation, tmp_path: Path
) -> None:
    """SIGHUP: from one part to the next limits and hash are the new bundle's, both together; rollback works alike."""
    tiny = own(tiny_station, tmp_path / "bundles")
    first = tiny.bundle
    running = line(tiny=tiny)
    assert {running.part()["bundle_hash"] for _ in range(2)} == {first.hash}
    second = strict(tiny)
    activate(tiny.bundles, NAME, second.hash)
    assert running.part()["bundle_hash"] == first.hash  # nothing happens before SIGHUP
    os.kill(running.process.pid, signal.SIGHUP)
    until(lambda: running.part()["bundle_hash"] == second.hash, "the second bundle judges")
    assert running.part()["verdict"] == "REJECT"
    assert running.status()["bundle_hash"] == second.hash
    done = inspectd("rollback", "--station", str(running.settings), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    os.kill(running.process.pid, signal.SIGHUP)
    until(lambda: running.part()["bundle_hash"] == first.hash, "the first bundle judges again")
    assert running.part()["verdict"] == "PASS"
    limits = {bundle.hash: bundle.thresholds.part.value for bundle in (first, second)}
    for result in running.heard.results:
        assert result["thresholds"]["part"] == limits[result["bundle_hash"]]
        assert result["verdict"] == ("PASS" if result["bundle_hash"] == first.hash else "REJECT")
    assert running.metrics()["inspectd_bundles_exchanged_total"] == 2
    assert accounting.balance(running, len(running.heard.results)) == 0


def test_a_bad_bundle_is_refused_and_the_running_one_goes_on(
    line: Line, tiny_station: TinyStation, tmp_path: Path
) -> None:
    """A damaged bundle that was made active: one log line, a count, and not a single part the worse for it."""
    tiny = own(tiny_station, tmp_path / "bundles")
    first = tiny.bundle
    running = line(tiny=tiny)
    second = strict(tiny)
    activate(tiny.bundles, NAME, second.hash)
    weights = second.path(second.manifest.engine.files["model"])
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    os.kill(running.process.pid, signal.SIGHUP)
    until(lambda: running.part() and running.metrics()["inspectd_bundles_refused_total"] == 1, "the bundle is refused")
    assert {result["bundle_hash"] for result in running.heard.results} == {first.hash}
    assert {result["verdict"] for result in running.heard.results} == {"PASS"}
    running.wait_for_state("running")
    assert accounting.balance(running, len(running.heard.results)) == 0
    assert "was changed" in running.logged("bundle refused, the running one goes on")["why"]


def test_what_happens_to_the_files_of_the_running_bundle_does_not_disturb_it(
    line: Line, tiny_station: TinyStation, tmp_path: Path
) -> None:
    """Overwritten in place, cut to nothing and deleted: the scores stay what they were, to the last bit."""
    tiny = own(tiny_station, tmp_path / "bundles")
    folder = tiny.bundle.folder
    running = line(tiny=tiny)
    before = [running.part()["part_score"] for _ in range(4)]
    for name in open_bundle(folder).manifest.files:
        path = folder / name
        path.chmod(0o644)
        path.write_bytes(os.urandom(path.stat().st_size))
    assert [running.part()["part_score"] for _ in range(4)] == before
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        os.truncate(path, 0)
    assert [running.part()["part_score"] for _ in range(4)] == before
    shutil.rmtree(folder)
    assert [running.part()["part_score"] for _ in range(4)] == before
    assert accounting.balance(running, 16) == 0


def test_parts_are_judged_while_another_bundle_is_loaded(line: Line, tiny_station: TinyStation, tmp_path: Path) -> None:
    """The old engine judges until the new one may: no part waits for a bundle, not even for one that hangs later."""
    tiny = own(tiny_station, tmp_path / "bundles")
    running = line(tiny=tiny, line={"deadline_ms": 400}, supervision={"hang_s": 1.0})
    second = strict(tiny)
    activate(tiny.bundles, NAME, second.hash)
    os.kill(running.process.pid, signal.SIGHUP)
    until(lambda: running.part()["bundle_hash"] == second.hash, "the second bundle judges")
    assert "INVALID" not in {result["verdict"] for result in running.heard.results if result["reason"] != "late"}
    running.control.arm(Injection(kind=Kind.ENGINE_HANG))
    assert running.reasons(1) == ["late"]
    running.recovers()
    assert running.part()["bundle_hash"] == second.hash  # what came back is what judged last
    accounting.balance(running, len(running.heard.results))
