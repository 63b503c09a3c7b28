"""tools/soak.py as a user runs it: short runs of the real daemon, the accounts they end with, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_station import TinyStation, tool

FAULTY = ("--parts", "260", "--rate", "40", "--seed", "3", "--fault-every", "30")
EASY = {"deadline_ms": 1000, "margin_ms": 200}


def held(report: dict[str, Any]) -> dict[str, bool]:
    """Each promise, and whether it held."""
    return {promise["text"]: promise["held"] for promise in report["promises"]}


def test_every_part_of_a_quiet_run_is_accounted_for(tiny_station: TinyStation, tmp_path: Path) -> None:
    """No faults, a rate that any machine holds: every promise held, as Markdown; nothing is left behind."""
    settings = tiny_station.settings(tmp_path, line=EASY)
    done = tool(
        "soak",
        "--station",
        str(settings),
        "--parts",
        "250",
        "--rate",
        "40",
        "--no-faults",
        "--markdown",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "| lost | 0 | held |" in done.stdout
    assert "| announced twice | 0 | held |" in done.stdout
    found = re.search(r"\| triggers = PASS \+ REJECT \+ INVALID \| (\d+) = (\d+) \| held \|", done.stdout)
    assert found
    assert int(found[1]) >= 250
    latencies = re.findall(
        r"^\| \**trigger to verdict\** \| \d+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", done.stdout, re.M
    )
    p50, p99, p999, most = map(float, latencies[0])
    assert 0 < p50 <= p99 <= p999 <= most
    assert {path.name for path in tmp_path.iterdir()} == {settings.name}


@pytest.mark.slow
def test_faults_break_no_promise(tiny_station: TinyStation, tmp_path: Path) -> None:
    """Faults from a seed in the real daemon, kills among them: nothing lost, nothing twice, and it says what it did."""
    settings = tiny_station.settings(tmp_path, line=EASY)
    done = tool("soak", "--station", str(settings), *FAULTY, "--json", folder=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 0, (report["promises"], done.stderr)
    assert all(held(report).values())
    assert sum(len(times) for times in report["mishaps_s"].values()) >= 5
    assert sum(report["verdicts"].values()) >= 260


def test_a_folder_that_exists_is_not_written_to(tiny_station: TinyStation, tmp_path: Path) -> None:
    """What a run left for a look is never overwritten."""
    settings = tiny_station.settings(tmp_path)
    (tmp_path / "kept").mkdir()
    done = tool("soak", "--station", str(settings), "--parts", "200", "--rate", "40", "--keep", "kept", folder=tmp_path)
    assert done.returncode == 8
    assert "kept: exists already" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--parts", "10"), 2, "at least 200"),
        (("--parts", "200", "--rate", "0"), 2, "more than 0"),
        (("--parts", "200", "--load", "inf"), 2, "more than 0"),
        ((), 2, "required"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    """Never a traceback."""
    done = tool("soak", *arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_help_shows_examples(tmp_path: Path) -> None:
    """--help works and shows calls for each kind of run."""
    done = tool("soak", "--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("tools/soak.py --station") >= 3
