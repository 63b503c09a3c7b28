"""Standard streams that are closed, full or broken off: a service manager and a shell may start a program with such."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from test_daemon import PATIENCE_S, UNHURRIED, daemon

ROOT = Path(__file__).parents[2]
WITHOUT_ONE = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


def inspectd(arguments: str, streams: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of inspectd, started by a shell with these redirections."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -m inspectd {arguments} {streams}', sys.executable],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("streams", WITHOUT_ONE)
def test_a_command_ends_with_its_own_code_without_a_stream(tmp_path: Path, streams: str) -> None:
    """Nobody can be told, but the exit code is that of the error: 3 for a station that is not there."""
    for command in ("run", "watch", "check"):
        assert inspectd(f"{command} --station nowhere", streams, tmp_path).returncode == 3
    assert inspectd("run --station", streams, tmp_path).returncode == 2
    assert inspectd("run --help", streams, tmp_path).returncode == 0


def test_an_error_is_told_where_standard_output_alone_is_closed(tmp_path: Path) -> None:
    """Standard error says what is wrong."""
    assert "no station named 'nowhere'" in inspectd("check --station nowhere", ">&-", tmp_path).stderr


def test_a_full_standard_error_changes_no_exit_code(tmp_path: Path) -> None:
    """As if nobody read it."""
    assert inspectd("check --station nowhere", "2>/dev/full", tmp_path).returncode == 3


def test_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """What was asked for has not arrived: exit code 8, and one line."""
    done = inspectd("bundles --station smdc", ">/dev/full", tmp_path)
    assert done.returncode == 8
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """`inspectd --help | true`: nothing on standard error."""
    assert inspectd("--help", "| true", tmp_path).stderr == ""


@pytest.mark.parametrize("streams", WITHOUT_ONE)
def test_the_daemon_inspects_without_a_stream(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], streams: str
) -> None:
    """It gives verdicts, ends with 0, and none of its files has the number of a standard stream."""
    prefix = ("sh", "-c", f'exec "$0" "$@" {streams}')
    with daemon(tmp_path, prefix=prefix, **UNHURRIED) as running, context.socket(zmq.SUB) as results:
        results.subscribe(b"result.test")
        results.connect(running.station.outputs.results)
        assert results.poll(int(PATIENCE_S * 1000))
        assert json.loads(results.recv_multipart()[1])["verdict"] == "PASS"
        opened = [str(Path(f"/proc/{running.process.pid}/fd/{number}").readlink()) for number in range(3)]
        code, _ = running.end()
    assert code == 0
    assert not [path for path in opened if str(tmp_path) in path]
    assert opened.count("/dev/null") >= streams.count("&-")
