"""The demo: whose folder it takes, and what its summary counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from line_values import verdict

from inspectd.__main__ import main
from inspectd.demo import summary
from inspectd.messages import Outcome, Record
from inspectd.records.ledger import Ledger


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pointed at someone's folder, the demo ends with code 8 and deletes nothing."""
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 8
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert "--out" in capsys.readouterr().err


def test_the_summary_counts_false_rejects_and_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rejected good part is a false reject; a defective part that passed is an escape of its type and severity."""
    parts = [
        ("good", "simulated:1/0", Outcome.PASS),
        ("good", "simulated:1/1", Outcome.REJECT),
        ("scratch", "simulated:1/2/plain/5px", Outcome.PASS),
        ("scratch", "simulated:1/3/plain/5px", Outcome.REJECT),
        ("scratch", "simulated:1/4/faint/5px", Outcome.PASS),
    ]
    ledger = Ledger(tmp_path)
    for seq, (label, source, outcome) in enumerate(parts, start=1):
        record = Record(verdict=replace(verdict(seq, outcome), label=label), source=source)
        ledger.write([record])
    ledger.close()
    summary.print_summary(tmp_path, seconds=1.0)
    text = " ".join(capsys.readouterr().out.split())
    assert "scratch 1 / 2 0 / 0 1 / 1 2 / 3" in text
    assert "1 of 2 good parts (50.0%)" in text
    assert "3 PASS, 2 REJECT, 0 INVALID" in text
