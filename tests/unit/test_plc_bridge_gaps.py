"""The example bridge: its order of results, its gaps, the thread of its rejects; time is given, answers are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from line_values import RUN, verdict

from inspectd.errors import NoAnswer
from inspectd.wire.public import result
from inspectd.wire.questions import AskResults, answer_results

TOOLS = str(Path(__file__).parents[2] / "tools")
DEADLINE_S = 5.0


def told(seq: int, run: str = RUN) -> dict[str, Any]:
    """The result of a part."""
    return result(replace(verdict(seq), deadline_ns=verdict(seq).trigger_ns + round(DEADLINE_S * 1e9)), run)


class Line:
    """A follower on a clock of its own; what it handed on, what it asked for, and the records that answer."""

    def __init__(self, bridge: Any, last_seq: int | None, run: str) -> None:
        self.now_s = 100.0
        self.run = RUN
        self.recorded: set[int] = set()
        self.down = False
        self.asked: list[tuple[int, int]] = []
        self.handed_on: list[int] = []
        bridge.time = SimpleNamespace(monotonic=lambda: self.now_s)
        self.follower = bridge.Follower(self.answer, lambda told: self.handed_on.append(told["seq"]), last_seq, run)

    def answer(self, first: int, last: int) -> dict[str, Any]:
        """What the daemon answers: at most three results at once."""
        self.asked.append((first, last))
        if self.down:
            raise NoAnswer("nobody there")
        found = [seq for seq in sorted(self.recorded) if first <= seq <= last][:3]
        full = len(found) == 3
        complete_to = found[-1] if full else max(first - 1, min(last, max(self.recorded, default=0)))
        return answer_results(
            [told(seq, self.run) for seq in found], AskResults(first, last), self.run, complete_to=complete_to
        )

    def come(self, *seqs: int) -> None:
        """Results by subscription; each is recorded, too."""
        for seq in seqs:
            self.recorded.add(seq)
            self.follower.take(told(seq, self.run))

    def begin_again(self) -> None:
        """Another run: nothing is recorded in it yet."""
        self.run, self.recorded = "0d" * 16, set()

    def beat(self) -> None:
        """A heartbeat, which names the newest number."""
        self.follower.heard_of(max(self.recorded, default=None), self.run)

    def wait(self, seconds: float) -> None:
        """Let time pass, turn by turn."""
        for _ in range(round(seconds / 0.1)):
            self.now_s += 0.1
            self.follower.turn()


@pytest.fixture
def make_line(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes lines that begin behind a number."""
    monkeypatch.syspath_prepend(TOOLS)
    import plc_bridge

    monkeypatch.setattr(plc_bridge, "time", plc_bridge.time)  # put back at the end
    return lambda last_seq=None, run=RUN: Line(plc_bridge, last_seq, run)


def test_what_was_missed_comes_first(make_line: Any) -> None:
    """All of it, however many answers it takes, each once and in order."""
    line = make_line(2)
    line.recorded.update(range(1, 12))
    line.come(12)
    line.come(13, 9)
    assert line.handed_on == list(range(3, 14))


def test_a_part_that_is_still_judged_is_waited_for(make_line: Any) -> None:
    """Its number has no record up to its deadline; meanwhile it is asked for twice a second, and not more often."""
    line = make_line()
    line.come(1, 3, 4)
    line.wait(DEADLINE_S)
    assert line.handed_on == [1]
    assert set(line.asked) == {(2, 2)}
    assert DEADLINE_S <= len(line.asked) <= 1 + 2 * DEADLINE_S
    line.come(2)
    assert line.handed_on == [1, 2, 3, 4]


def test_a_number_without_a_record_is_lost_after_its_deadline(make_line: Any, capsys: Any) -> None:
    """It is named, the others go on; a result that comes for it all the same is handed on, once."""
    line = make_line()
    line.come(1, 5)
    line.wait(DEADLINE_S + 3)
    assert line.handed_on == [1, 5]
    assert "no record of 2..4" in capsys.readouterr().err
    line.come(3, 3, 4, 5)
    assert line.handed_on == [1, 5, 3, 4]


def test_without_an_answer_nothing_is_given_up(make_line: Any) -> None:
    """However long the daemon is away, its records are asked for once it is back."""
    line = make_line()
    line.come(1)
    line.recorded.update((2, 3))
    line.down = True
    line.come(4)
    line.wait(10 * DEADLINE_S)
    line.down = False
    line.wait(1)
    assert line.handed_on == [1, 2, 3, 4]


def test_what_nobody_answers_for_holds_up_the_others_for_a_minute_at_most(make_line: Any, capsys: Any) -> None:
    """Parts go on, and no question is ever answered (a port that is closed): it says so; what comes later counts."""
    line = make_line()
    line.come(1)
    line.down = True
    for seq in range(3, 65):
        line.come(seq)
        line.wait(1)
    assert line.handed_on == [1, *range(3, 65)]
    assert "no record of 2..2: later ones come and wait" in capsys.readouterr().err
    line.come(2)
    assert line.handed_on[-1] == 2


def test_the_heartbeat_shows_a_gap_at_the_end(make_line: Any) -> None:
    """Without another part, what was missed last is asked for."""
    line = make_line()
    line.follower.heard_of(None)
    line.come(1)
    line.recorded.update((2, 3))
    line.follower.heard_of(3)
    assert line.handed_on == [1, 2, 3]


def test_where_numbers_begin_again_the_bridge_starts_over(make_line: Any, capsys: Any) -> None:
    """It says so; what waited for a missing one is handed on, what never came is named, and the new run is complete."""
    line = make_line()
    line.come(1, 2)
    line.down = True
    line.come(5)
    line.begin_again()
    line.down = False
    line.recorded.update((1, 2))
    line.come(3)
    assert line.handed_on == [1, 2, 5, 1, 2, 3]
    said = capsys.readouterr().err
    assert f"numbers begin again: run {line.run} in place of {RUN}" in said
    assert f"3..4 of run {RUN} never came" in said


def test_a_heartbeat_of_another_run_is_enough(make_line: Any, capsys: Any) -> None:
    """No part has come in it yet, or those that came were missed."""
    line = make_line(1041)
    line.begin_again()
    line.beat()
    assert "numbers begin again" in capsys.readouterr().err
    line.recorded.update((1, 2))
    line.beat()
    assert line.handed_on == [1, 2]
    assert line.asked == [(1, 2)]


def test_answers_of_another_run_fill_no_gap(make_line: Any) -> None:
    """The daemon was renewed between a result and the question: its parts are others than those that are missing."""
    line = make_line()
    line.come(1)
    run = line.run
    line.begin_again()
    line.recorded.update((1, 2, 3))
    line.follower.take(told(3, run))
    assert line.handed_on == [1]
    line.beat()
    assert line.handed_on == [1, 3, 1, 2, 3]


def test_a_restart_within_a_run_says_nothing(make_line: Any, capsys: Any) -> None:
    """The numbers go on, and so does the bridge."""
    line = make_line(2)
    line.recorded.update((1, 2))
    line.beat()
    line.come(3)
    assert (line.handed_on, capsys.readouterr().err) == ([3], "")


@pytest.mark.parametrize("by", ["result", "heartbeat"])
def test_numbers_below_the_one_handled_are_told_without_a_known_run(make_line: Any, capsys: Any, by: str) -> None:
    """A bridge that kept its number and no run cannot tell why: it says what it sees, and drops no result."""
    line = make_line(1041, run="")
    line.recorded.update(range(1, 7))
    if by == "heartbeat":
        line.beat()
    line.come(7, 8)
    assert line.handed_on == [7, 8]
    assert "only, not 1041: they began again, or records were lost" in capsys.readouterr().err


def test_what_finds_no_room_to_wait_is_asked_for(make_line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and nothing is lost by that."""
    import plc_bridge

    monkeypatch.setattr(plc_bridge, "MOST_WAITING", 2)
    line = make_line()
    line.come(1, *range(3, 10))
    assert line.handed_on == [1]
    line.come(2)
    line.wait(1)
    assert line.handed_on == list(range(1, 10))


def test_what_ends_the_thread_of_rejects_ends_the_bridge(make_line: Any) -> None:
    """A fault in `on_reject` is no silence: whoever follows the results hears of it."""
    import plc_bridge

    messages = iter([("reject", {}), ("reject", {})])
    subscription = SimpleNamespace(next=lambda: next(messages), close=lambda: None)
    acted: list[object] = []

    def act(message: object) -> None:
        acted.append(message)
        raise ZeroDivisionError("no such output")

    rejects = plc_bridge.Rejects(lambda: subscription, {"reject": act})
    rejects.check()
    rejects.start()
    assert rejects.heard.wait(30)
    rejects.end()
    assert acted == [{}]
    with pytest.raises(ZeroDivisionError, match="no such output"):
        rejects.check()
