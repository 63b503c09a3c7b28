"""The demo's daemon: the real `inspectd run`, followed, made to take another bundle, and stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_station import NAME, TinyStation

from engines.artifact import activate
from inspectd.config import load_station
from inspectd.demo.daemon import Daemon, DaemonFailed, run_daemon


def test_the_line_takes_another_bundle_and_is_stopped(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Results by the second bundle follow those by the first, and SIGTERM is a clean end.

    OpenVINO gives the thread that loads the first engine a stack for signal handlers; freed by another thread, together
    with that engine, it made the next signal a segmentation fault.
    """
    shutil.copytree(tiny_station.bundles, tmp_path / "bundles", symlinks=True)
    tiny = TinyStation(tmp_path / "bundles")
    second = tiny.with_limits(-1000.0, tiny.bundles)  # below whatever a part scores
    settings = tiny.settings(tmp_path)
    with Daemon(settings, load_station(str(settings)), tmp_path / "log") as daemon:
        assert next(daemon.results())["bundle_hash"] == tiny.bundle.hash
        activate(tiny.bundles, NAME, second.hash)
        daemon.exchange()
        assert (
            next(result for result in daemon.results() if result["bundle_hash"] == second.hash)["verdict"] == "REJECT"
        )
        daemon.stop()


def test_a_daemon_that_cannot_run_says_why(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Its own exit code, its last line, and where the rest is."""
    settings = tiny_station.settings(tmp_path, bundles=str(tmp_path / "nothing"))
    with pytest.raises(DaemonFailed, match=r"ended with code 4: .*no active bundle.* \(.*log\)") as failed:
        run_daemon(settings, load_station(str(settings)), 5, tmp_path / "log", "inspecting")
    assert failed.value.exit_code == 4
