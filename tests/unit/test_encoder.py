"""Belt and ByEncoder: counts to distances and times, whatever the counter does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from line_values import MS, trigger, verdict

from inspectd.encoder import Belt, ByEncoder
from inspectd.messages import Command, Outcome, Position, Reject, Verdict
from inspectd.tracking import Tracker, Window


def belt(*, modulus: int | None = None, sign: int = 1) -> Belt:
    """A belt whose steady motion is within 20 counts."""
    return Belt(modulus=modulus, sign=sign, tolerance_counts=20, jump_counts=1000)


def move(on: Belt | ByEncoder, counts_per_ms: float, *, until_ms: int, start: int = 0, modulus: int = 1 << 62) -> None:
    """A reading each 10 ms of a belt in steady motion."""
    for at_ms in range(0, until_ms + 1, 10):
        on.on_position(Position(count=round(start + counts_per_ms * at_ms) % modulus, at_ns=at_ms * MS))


def course(*, modulus: int | None = None, sign: int = 1) -> ByEncoder:
    """An actuator 1000 counts behind the trigger, with a window of 100."""
    return ByEncoder(distance_counts=1000, window_counts=100, modulus=modulus, sign=sign)


def rejected(seq: int, encoder: int | None, at_ms: float) -> Verdict:
    """A part to be taken off."""
    return replace(verdict(seq, Outcome.REJECT), encoder=encoder, trigger_ns=round(at_ms * MS))


def test_a_steady_belt_says_when_it_arrives() -> None:
    """At two counts per millisecond, 1000 counts take 500 ms."""
    steady = belt()
    move(steady, 2, until_ms=400)
    assert steady.reaches_ns(1000, 400 * MS) == pytest.approx(900 * MS, abs=MS)


def test_a_counter_that_wraps_goes_on() -> None:
    """Distances and times run across the wrap, and the target wraps too."""
    wrapping = belt(modulus=4096)
    move(wrapping, 2, until_ms=400, start=3700, modulus=4096)
    assert wrapping.travelled_since(3700) == 800
    assert wrapping.reaches_ns(100, 400 * MS) == pytest.approx(450 * MS, abs=MS)
    assert wrapping.ahead(4000, 1000) == 904


def test_the_shorter_way_round_the_counter_is_the_way_it_went() -> None:
    """A belt that runs back across the wrap has moved back, not once round."""
    wrapping = belt(modulus=4096)
    assert wrapping.counts_between(50, 4046) == -100
    assert wrapping.counts_between(4046, 50) == 100


def test_after_a_reset_the_speed_is_that_of_the_new_counts() -> None:
    """Positions from before a jump back are forgotten."""
    reset = belt()
    move(reset, 2, until_ms=500, start=100_000)
    for at_ms in range(510, 661, 10):
        reset.on_position(Position(count=at_ms - 510, at_ns=at_ms * MS))
    assert reset.reaches_ns(100, 660 * MS) == pytest.approx(760 * MS, abs=MS)


def test_a_counter_may_fall() -> None:
    """With the sign turned round, falling counts are forward."""
    falling = belt(sign=-1)
    move(falling, -2, until_ms=400, start=5000)
    assert falling.travelled_since(5000) == 800
    assert falling.ahead(5000, 1000) == 4000
    assert falling.reaches_ns(200, 400 * MS) == pytest.approx(500 * MS, abs=MS)


@pytest.mark.parametrize("counts_per_ms", [0, -1])
def test_a_belt_that_stands_or_runs_backwards_has_no_arrival(counts_per_ms: int) -> None:
    """No time is made up: counts alone are told."""
    standing = belt()
    move(standing, counts_per_ms, until_ms=400)
    assert standing.reaches_ns(100, 400 * MS) is None


def test_positions_that_are_too_old_say_nothing_of_now() -> None:
    """A second without a position, and there is no time estimate any more."""
    silent = belt()
    move(silent, 2, until_ms=400)
    assert silent.reaches_ns(100, 1400 * MS) is not None
    assert silent.reaches_ns(100, 1401 * MS) is None


def test_two_positions_are_not_a_motion() -> None:
    """The first estimate needs three."""
    starting = belt()
    for at_ms in (0, 60):
        starting.on_position(Position(count=2 * at_ms, at_ns=at_ms * MS))
    assert starting.reaches_ns(100, 60 * MS) is None
    starting.on_position(Position(count=240, at_ns=120 * MS))
    assert starting.reaches_ns(100, 120 * MS) == 170 * MS


def test_readings_that_came_in_a_burst_do_not_bend_the_motion() -> None:
    """A reader that was held up for 300 ms, and then read thirty positions at once, still knows the speed."""
    held_up = belt()
    move(held_up, 2, until_ms=600)
    for count in range(1220, 1801, 20):
        held_up.on_position(Position(count=count, at_ns=900 * MS + count))
    held_up.on_position(Position(count=1900, at_ns=950 * MS))
    assert held_up.reaches_ns(100, 950 * MS) == pytest.approx(1000 * MS, abs=5 * MS)


def test_a_belt_that_changes_its_speed_has_no_arrival_until_it_is_steady() -> None:
    """Positions that do not lie on one line give no time; a second later they do again."""
    changing = belt()
    move(changing, 2, until_ms=500)
    for at_ms in range(510, 801, 10):
        changing.on_position(Position(count=1000 + (at_ms - 500) // 2, at_ns=at_ms * MS))
    assert changing.reaches_ns(100, 800 * MS) is None
    for at_ms in range(810, 1601, 10):
        changing.on_position(Position(count=1000 + (at_ms - 500) // 2, at_ns=at_ms * MS))
    assert changing.reaches_ns(100, 1600 * MS) == pytest.approx(1800 * MS, abs=3 * MS)


def test_a_reading_from_before_the_newest_changes_nothing() -> None:
    """A trigger that says that it is older than the last position does not turn the belt back."""
    ordered = belt()
    move(ordered, 2, until_ms=400)
    before = ordered.reaches_ns(100, 400 * MS)
    ordered.on_position(Position(count=0, at_ns=100 * MS))
    assert ordered.travelled_since(0) == 800
    assert ordered.reaches_ns(100, 400 * MS) == before


def test_readings_that_were_overtaken_still_tell_the_speed() -> None:
    """A trigger that came before the positions of the last second: they fill in behind it, where they do not crowd."""
    overtaken = belt()
    overtaken.on_position(Position(count=1800, at_ns=900 * MS))
    for at_ms in (*range(0, 900, 10), *range(0, 900, 10)):
        overtaken.on_position(Position(count=2 * at_ms, at_ns=at_ms * MS))
    assert overtaken.travelled_since(0) == 1800
    assert overtaken.reaches_ns(100, 900 * MS) == pytest.approx(950 * MS, abs=MS)


def test_the_window_is_told_in_counts_and_in_time() -> None:
    """From the trigger's count and the belt's speed."""
    moving = course()
    move(moving, 2, until_ms=400)
    window = moving.window(rejected(1, 700, 350), 400 * MS)
    assert (window.from_count, window.to_count, window.gone) == (1700, 1800, "")
    assert window.opens_ns == pytest.approx(850 * MS, abs=MS)
    assert window.closes_ns == pytest.approx(900 * MS, abs=MS)


def test_a_stopped_belt_leaves_the_counts() -> None:
    """The window stands in counts, and no time is told."""
    stopped = course()
    move(stopped, 0, until_ms=400, start=700)
    assert stopped.window(rejected(1, 700, 350), 400 * MS) == Window(from_count=1700, to_count=1800)


def test_a_part_that_has_passed_is_gone() -> None:
    """Beyond the end of the window by a count, and nothing is to be told any more."""
    moving = course()
    move(moving, 0, until_ms=400, start=1100)
    assert moving.window(rejected(1, 0, 0), 400 * MS).gone == ""
    move_on = Position(count=1101, at_ns=401 * MS)
    moving.on_position(move_on)
    assert moving.window(rejected(1, 0, 0), 402 * MS).gone == "the part is 1 counts past its window"


def test_a_count_that_was_set_back_loses_its_parts() -> None:
    """After a reset of the counter nobody knows where the parts before it are; those after it are tracked."""
    reset = course()
    move(reset, 2, until_ms=400, start=100_000)
    reset.on_position(Position(count=5, at_ns=410 * MS))
    assert reset.window(rejected(1, 100_700, 350), 420 * MS).gone == "the encoder's count jumped back since the trigger"
    assert reset.window(rejected(2, 5, 410), 420 * MS) == Window(from_count=1005, to_count=1105)


def test_a_part_without_a_count_is_missed() -> None:
    """Nobody knows where it is: its reject is reported, not guessed."""
    rule = Tracker(course())
    rule.on_trigger(trigger(1))
    told = rule.on_verdict(rejected(1, None, 0), MS).reject
    assert told == Reject(command=Command.MISSED, detail="its trigger carried no encoder count")


def test_a_held_command_follows_the_belt() -> None:
    """A belt that stops makes it wait; it leaves as the count says that the part has come."""
    rule = Tracker(course(), lead_ns=5 * MS, hold=True)
    for at_ms in range(0, 501, 10):
        rule.on_position(Position(count=2 * at_ms, at_ns=at_ms * MS))
    part = replace(trigger(1, at_ms=500), encoder=1000)
    rule.on_trigger(part)
    held = rule.on_verdict(rejected(1, 1000, 500), 520 * MS).reject
    assert held is not None
    assert held.command is Command.HELD
    assert rule.next_due_ns(520 * MS) == pytest.approx(995 * MS, abs=MS)
    for at_ms in range(510, 1701, 10):
        rule.on_position(Position(count=1000, at_ns=at_ms * MS))
    assert rule.due(1700 * MS) == []
    assert rule.next_due_ns(1700 * MS) is None
    rule.on_position(Position(count=1999, at_ns=1710 * MS))
    assert rule.due(1710 * MS) == []
    rule.on_position(Position(count=2000, at_ns=1720 * MS))
    (told,) = rule.due(1720 * MS)
    assert told.reject == Reject(command=Command.SCHEDULED, from_count=2000, to_count=2100)
