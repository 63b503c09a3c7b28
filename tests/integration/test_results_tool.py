"""tools/benchmark.py results as a user runs it: a tiny plan from start to page. No figure is judged here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from tiny_station import ROOT, STEPS, environment, tool

PATCHES = [[2, 2]]
REGIONS = [
    {"name": "left", "top_px": 7, "left_px": 9, "height_px": 50, "width_px": 55, "patches": PATCHES},
    {"name": "right", "top_px": 7, "left_px": 64, "height_px": 50, "width_px": 55, "patches": PATCHES},
]
TINY = {
    "canvas": {"height_px": 64, "width_px": 128},
    "regions": REGIONS,
    "model": {"score": "paper", "features": False, "random_teachers": True, "quick": STEPS},
    "engine": {"precision": "f32"},
}


ONE_ROW = {"title": "T", "rows": [{"name": "a", "settings": "tiny", "data": "some"}]}
ONE_FEW = {"title": "T", "rows": [{"name": "a", "settings": "tiny", "data": "few"}]}


def plan(**changes: Any) -> dict[str, Any]:
    """One row that can be measured in seconds, and one whose data are not there."""
    return {
        "timing_s": 0.1,
        "precisions": ["f32", "bf16"],
        "settings": {"tiny": {"station": "smdc", "changes": TINY}},
        "data": {
            "few": {"simulated": {"train": 100, "good": 6, "defective": 9}, "images": True},
            "nowhere": {"folder": "nowhere"},
        },
        "tables": [
            {
                "title": "Tiny",
                "rows": [
                    {"name": "not there", "settings": "tiny", "data": "nowhere"},
                    {"name": "there", "settings": "tiny", "data": "few", "pictures": True},
                ],
            }
        ],
        **changes,
    }


def results(folder: Path, *options: str, what: dict[str, Any]) -> Any:
    """Run the tool on the plan, to its end. JSON is YAML."""
    (folder / "plan.yaml").write_text(json.dumps(what), encoding="utf-8")
    return tool("benchmark", "results", "--plan", "plan.yaml", *options, folder=folder)


@contextmanager
def running(folder: Path, *options: str, what: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """The tool at work on the plan; it never outlives the block."""
    (folder / "plan.yaml").write_text(json.dumps(what), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "results", "--plan", "plan.yaml", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def rows_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of rows that this run of the tool has started.

    It asks others about the machine, too; one of those may end while it is looked at.
    """
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if "row" in child.cmdline():
                found.append(child)
    return found


def until_there_are(look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """What `look` finds, as soon as it finds something."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError("no row was begun")


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows kept, by name."""
    kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row for row in kept}


@pytest.mark.slow
def test_a_plan_becomes_a_page_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    """A row that fails is kept with its line and ends the run with 16; the others are measured, drawn, and kept."""
    done = results(tmp_path, "--write", "docs/results.md", what=plan())
    assert done.returncode == 16, done.stderr
    kept = rows(tmp_path)
    assert kept["tiny/nowhere"]["failed"] == "nowhere: no such folder"
    row = kept["tiny/few"]
    assert "failed" not in row, row
    assert (row["good"], row["defective"], row["precision"]) == (6, 9, "f32")
    assert all("untrained" in name for name in row["teachers"])
    engines = {one["precision"]: one for one in row["engines"]}
    assert engines["f32"]["kept"]
    assert engines["f32"]["image_auroc"] == row["image_auroc"]
    assert engines["f32"]["median_ms"] > 0
    assert engines["bf16"]["left_out"] or engines["bf16"]["image_auroc"] is not None
    text = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    assert "| there | few | 6 / 9 |" in text
    assert "- not there (tiny/nowhere): failed: nowhere: no such folder" in text
    drawn = {path.name for path in (tmp_path / "docs" / "results").iterdir()}
    assert drawn == {f"tiny-few-{name}.png" for name in ("scores", "roc", "lambdas", "maps")}
    assert f"{row['took_s']:.0f} | done |" in results(tmp_path, "--list", what=plan()).stdout

    again = results(tmp_path, what=plan())
    assert again.returncode == 16
    assert rows(tmp_path) == kept


def test_a_row_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """Its process is stopped, and the reason kept."""
    data = {"some": {"folder": "nowhere"}}
    table = {"title": "T", "rows": [{"name": "slow", "settings": "tiny", "data": "some", "timeout_min": 0.001}]}
    done = results(tmp_path, what=plan(data=data, tables=[table]))
    assert done.returncode == 16, done.stderr
    assert "took longer than 0.001 min" in rows(tmp_path)["tiny/some"]["failed"]


def test_what_failed_is_taken_up_again_when_asked(tmp_path: Path) -> None:
    """Without --retry a failed row stays as it is; with it, it is measured again, and only it."""
    short = {"name": "slow", "settings": "tiny", "data": "some", "timeout_min": 0.001}
    what = plan(data={"some": {"folder": "nowhere"}}, tables=[{"title": "T", "rows": [short]}])
    results(tmp_path, what=what)
    first = rows(tmp_path)
    results(tmp_path, what=what)
    assert rows(tmp_path) == first
    (log,) = (tmp_path / "work").glob("results/rows/*/*/log.txt")
    log.unlink()
    results(tmp_path, "--retry", what=what)
    assert log.is_file()


def test_no_row_begins_while_quiet_is_asked_for(tmp_path: Path) -> None:
    """The tool says what it waits for, and goes on once the file is gone."""
    what = plan(data={"some": {"folder": "nowhere"}}, tables=[ONE_ROW])
    (tmp_path / "quiet").touch()
    with running(tmp_path, "--quiet-file", "quiet", what=what) as process:
        assert process.stderr is not None
        assert "waiting: quiet exists" in process.stderr.readline()
        assert not (tmp_path / "results.json").exists()
        (tmp_path / "quiet").unlink()
        assert process.wait(60) == 16
    assert "no such folder" in rows(tmp_path)["tiny/some"]["failed"]


def test_an_interrupted_run_leaves_no_process_behind(tmp_path: Path) -> None:
    """SIGINT ends the row's process with the tool; rows that were done stay done."""
    what = plan(data={"few": {"simulated": {"train": 100, "good": 2, "defective": 9}}}, tables=[ONE_FEW])
    with running(tmp_path, what=what) as process:
        children = until_there_are(lambda: rows_of(process))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (1, [])
    assert not (tmp_path / "results.json").exists()


def test_a_row_of_another_layout_says_so(tmp_path: Path) -> None:
    """A folder that is not laid out as the plan says is one line, and no training."""
    for name in ("train/ok", "test/ok", "test/ko"):
        (tmp_path / "set" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "set" / name / "0.png"), np.zeros((8, 8), np.uint8))
    table = {"title": "T", "rows": [{"name": "a", "settings": "tiny", "data": "set"}]}
    done = results(tmp_path, what=plan(data={"set": {"folder": "set"}}, tables=[table]))
    assert done.returncode == 16, done.stderr
    assert rows(tmp_path)["tiny/set"]["failed"].startswith("set: is laid out as btad, the plan says mvtec")


def test_no_run_measures_nothing(tmp_path: Path) -> None:
    """The page says which rows have no figures yet, and so does the exit code."""
    done = results(tmp_path, "--no-run", "--write", "page.md", what=plan())
    assert done.returncode == 16
    assert "not measured yet" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert not (tmp_path / "results.json").exists()
    assert results(tmp_path, "--list", what=plan()).returncode == 0
