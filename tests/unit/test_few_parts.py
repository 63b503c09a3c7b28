"""tools/few_parts.py: draws are kept and not made again, and the page has every set. Nothing is calibrated here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, int]]:
    """(number, seed) of the draws that were made; the tool runs in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(tmp_path)
    import few_parts

    made: list[tuple[int, int]] = []

    def draw(_station: Any, _parts: Any, number: int, seed: int) -> Any:
        made.append((number, seed))
        return few_parts.Draw(auroc=0.8 + 0.1 * seed, promised=0.05, false_rejects=0.01, escapes=0.2 * seed)

    monkeypatch.setattr(few_parts, "_draw", draw)
    monkeypatch.setattr(few_parts, "_read", lambda _data, _station: object())
    return made


def labelled_set(folder: Path, good: int) -> None:
    """So many good parts to learn from, one of each kind to judge; nothing here opens an image."""
    for name in (*(f"train/good/{number:03d}.png" for number in range(good)), "test/good/0.png", "test/cut/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def run(*arguments: str) -> int:
    """The tool, in this process."""
    import few_parts

    code: int = few_parts.main(arguments)
    return code


def test_several_sets_become_one_page(drawn: list[tuple[int, int]], tmp_path: Path) -> None:
    """A line for each set and number of parts; numbers that a set does not exceed are left out."""
    labelled_set(tmp_path / "sets" / "nut", 30)
    labelled_set(tmp_path / "sets" / "cloth", 7)
    arguments = ("--data", "sets", "--draws", "2", "--station", "cloth=texture", "--write", "page.md")
    assert run(*arguments) == 0
    lines = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:4] for line in lines[2:]] == [
        ["| cloth", "texture", "5", "2"],
        ["| nut", "object", "5", "2"],
        ["| nut", "object", "10", "2"],
        ["| nut", "object", "20", "2"],
    ]
    assert "0.850 (0.800) | 1.00% | 5.0% | 10% (20%) |" in lines[2]
    assert len(drawn) == 8


def test_draws_are_made_once(drawn: list[tuple[int, int]], tmp_path: Path) -> None:
    """What was interrupted goes on, and more draws are added; another station's are others."""
    labelled_set(tmp_path / "nut", 30)
    asked = ("--data", "nut", "--parts", "5")
    run(*asked, "--draws", "2")
    rows = json.loads((tmp_path / "few_parts.json").read_text())["rows"]
    (tmp_path / "few_parts.json").write_text(json.dumps({"rows": rows[:1]}))
    run(*asked, "--draws", "3")
    assert drawn == [(5, 0), (5, 1), (5, 1), (5, 2)]
    station = (ROOT / "stations" / "object.yaml").read_text().replace("256", "128")
    (tmp_path / "other.yaml").write_text(station)
    run(*asked, "--draws", "1", "--station", "other.yaml")
    assert drawn[4:] == [(5, 0)]


def test_a_set_without_defects_is_refused(drawn: list[tuple[int, int]], tmp_path: Path) -> None:
    """Before anything is calibrated."""
    labelled_set(tmp_path / "nut", 30)
    (tmp_path / "nut/test/cut/0.png").unlink()
    assert run("--data", "nut") == 5
    assert drawn == []
