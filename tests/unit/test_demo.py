"""The demo: whose folder it takes, and what its summary counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from line_values import verdict

from engines.artifact import ThresholdSet
from inspectd.__main__ import main
from inspectd.commands.demo import first_parts, paced
from inspectd.config import Station, load_station
from inspectd.demo import summary
from inspectd.demo.rehearsal import REHEARSALS, rehearsed
from inspectd.messages import Outcome, Reason, Record
from inspectd.records.ledger import Ledger


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pointed at someone's folder, the demo ends with code 8 and deletes nothing."""
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 8
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert "--out" in capsys.readouterr().err


def test_first_parts_are_the_first_of_the_footage(tmp_path: Path) -> None:
    """So many images and lines as asked, the first ones, and no copy of the pixels."""
    footage = tmp_path / "footage"
    footage.mkdir()
    lines = [f'{{"file": "{number:06d}.png"}}\n' for number in range(1, 6)]
    (footage / "metadata.jsonl").write_text("".join(lines))
    for number in range(1, 6):
        (footage / f"{number:06d}.png").write_bytes(b"pixels")
    first = first_parts(footage, 3, tmp_path / "first")
    assert (first / "metadata.jsonl").read_text() == "".join(lines[:3])
    assert sorted(path.name for path in first.glob("*.png")) == ["000001.png", "000002.png", "000003.png"]
    assert (first / "000001.png").samefile(footage / "000001.png")


@pytest.mark.parametrize(("engine_ms", "period_ms", "deadline_ms"), [(5, 20, 50), (30, 45, 53)])
def test_the_demo_asks_no_more_than_the_machine_holds(engine_ms: float, period_ms: float, deadline_ms: float) -> None:
    """The station's own pace where the engine is fast; else one that it holds, and the words say so."""
    line, said = paced(load_station("smdc"), np.full(50, float(engine_ms)))
    assert (line.trigger.period_ms, line.line.deadline_ms) == (period_ms, deadline_ms)
    assert f"takes {engine_ms:.1f} ms" in said
    assert ("as the station has it" in said) == (period_ms == 20)


@pytest.mark.parametrize(("lost", "period_ms"), [((0,), 20), ((31, 2, 0), 40)])
def test_a_rehearsal_that_ran_out_of_time_is_followed_by_a_slower_one(lost: tuple[int, ...], period_ms: float) -> None:
    """The line runs at the first pace at which no part ran out of time: 20, 28, 40 ms; each step is said."""
    left, said = list(lost), []
    line = rehearsed(load_station("smdc"), lambda _line: left.pop(0), said.append)
    assert (line.trigger.period_ms, left) == (period_ms, [])
    assert [words.split()[0] for words in said] == [str(parts) for parts in lost if parts]


def test_a_machine_that_holds_no_pace_still_gets_its_line() -> None:
    """A demo on a machine that is busy with something else ends: rehearsals are counted."""
    runs: list[float] = []

    def lost(line: Station) -> int:
        runs.append(line.trigger.period_ms)
        return 1

    assert rehearsed(load_station("smdc"), lost, lambda _said: None).trigger.period_ms > runs[-1]
    assert len(runs) == REHEARSALS


RATES = {
    "method": "conformal",
    "asked_rate": 0.01,
    "expected_rate": 0.01,
    "low": 0.0,
    "high": 0.03,
    "confidence": 0.95,
    "parts": 100,
}
PROMISED = ThresholdSet.model_validate({"part": {"value": 1.0, **RATES}, "regions": {}, "needed_parts": 100, **RATES})


def summed_up(folder: Path, parts: list[tuple[str, str, Outcome, Reason]], capsys: pytest.CaptureFixture[str]) -> str:
    """What the summary prints of records of these labels, sources and verdicts, blanks in a row as one."""
    ledger = Ledger(folder)
    for seq, (label, source, outcome, reason) in enumerate(parts, start=1):
        found = replace(verdict(seq, outcome), label=label, reason=reason)
        ledger.write([Record(verdict=found, source=source)])
    ledger.close()
    summary.print_summary(folder, PROMISED, seconds=1.0)
    return " ".join(capsys.readouterr().out.split())


def test_the_summary_counts_false_rejects_and_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rejected good part is a false reject; a defective part that passed is an escape of its type and severity."""
    within, over = Reason.WITHIN_LIMITS, Reason.OVER_THRESHOLD
    parts = [
        ("good", "simulated:1/0", Outcome.PASS, within),
        ("good", "simulated:1/1", Outcome.REJECT, over),
        ("scratch", "simulated:1/2/plain/5px", Outcome.PASS, within),
        ("scratch", "simulated:1/3/plain/5px", Outcome.REJECT, over),
        ("scratch", "simulated:1/4/faint/5px", Outcome.PASS, within),
    ]
    text = summed_up(tmp_path, parts, capsys)
    assert "scratch 1 / 2 0 / 0 1 / 1 2 / 3" in text
    assert "1 of 2 good parts judged (50.0%; 1.0% expected, 0.0% to 3.0%)" in text
    assert "5: 2 good, 3 defective verdicts" in text
    assert "3 PASS, 2 REJECT, 0 INVALID false rejects" in text


def test_what_could_not_be_judged_is_no_false_reject_and_no_catch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that is too slow says nothing of the limits: its INVALID parts are told apart, with the cause."""
    parts = [
        ("good", "simulated:1/0", Outcome.PASS, Reason.WITHIN_LIMITS),
        ("good", "simulated:1/1", Outcome.INVALID, Reason.OVERLOAD),
        ("scratch", "simulated:1/2/plain/5px", Outcome.INVALID, Reason.LATE),
        ("scratch", "simulated:1/3/plain/5px", Outcome.PASS, Reason.WITHIN_LIMITS),
        ("", "", Outcome.INVALID, Reason.LATE),
    ]
    text = summed_up(tmp_path, parts, capsys)
    assert "defect plain moderate faint all scratch 1 / 1 0 / 0 0 / 0 1 / 1 all 1 / 1" in text
    assert "5: 2 good, 2 defective, 1 of which no image came in time" in text
    assert "INVALID 2 late, 1 overload: this machine is too slow for this line, or busy" in text
    assert "0 of 1 good parts judged (0.0%;" in text


def test_other_reasons_do_not_blame_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that was not found is no matter of time."""
    text = summed_up(tmp_path, [("good", "simulated:1/0", Outcome.INVALID, Reason.NO_PART)], capsys)
    assert "INVALID 1 no_part false rejects 0 of 0 good parts judged (none seen;" in text
