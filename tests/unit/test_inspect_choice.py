"""Which frame is inspected next, and which cannot be any more. Time is given, not read."""

from __future__ import annotations

from line_values import MS, frame

from inspectd.overload import Cost, choose


def test_the_oldest_goes_first_where_all_can_be_met() -> None:
    """With time for all, parts are inspected in their order."""
    waiting = [frame(1, deadline_ms=50), frame(2, deadline_ms=60)]
    choice = choose(waiting, now_ns=0, least_ns=8 * MS, likely_ns=10 * MS)
    assert choice.next is waiting[0]
    assert choice.stay == waiting[1:]
    assert choice.drop == []


def test_the_newest_goes_first_under_overload() -> None:
    """Where not all can be met in turn, the newest that can be is next; the others stay while they can."""
    waiting = [frame(1, deadline_ms=17), frame(2, deadline_ms=18), frame(3, deadline_ms=21)]
    choice = choose(waiting, now_ns=0, least_ns=8 * MS, likely_ns=10 * MS)
    assert choice.next is waiting[2]
    assert choice.stay == waiting[:2]


def test_what_the_newest_leaves_no_time_for_is_dropped_with_it() -> None:
    """A part that could be met now, but not once the newest is done, is told so at once."""
    waiting = [frame(1, deadline_ms=15), frame(2, deadline_ms=18), frame(3, deadline_ms=21)]
    choice = choose(waiting, now_ns=0, least_ns=8 * MS, likely_ns=10 * MS)
    assert (choice.next, choice.stay, choice.drop) == (waiting[2], [waiting[1]], [waiting[0]])


def test_few_parts_stay_behind_the_newest() -> None:
    """Under overload the oldest of those that could still be met go too: there must be room for newer ones."""
    waiting = [frame(seq, deadline_ms=40 + seq) for seq in range(9)]
    choice = choose(waiting, now_ns=0, least_ns=8 * MS, likely_ns=10 * MS)
    assert (choice.next, choice.stay, choice.drop) == (waiting[8], waiting[4:8], waiting[:4])


def test_company_is_the_next_in_line() -> None:
    """An engine for three parts at once takes the three oldest; the rest waits for its turn."""
    waiting = [frame(seq, deadline_ms=30) for seq in range(1, 6)]
    choice = choose(waiting, now_ns=0, least_ns=8 * MS, likely_ns=10 * MS, together=3)
    assert (choice.next, choice.company, choice.stay, choice.drop) == (waiting[0], waiting[1:3], waiting[3:], [])


def test_under_overload_the_newest_are_company() -> None:
    """The parts just before the newest go with it and are not dropped; older ones stay or go as before."""
    waiting = [frame(seq, deadline_ms=14 + seq) for seq in range(1, 6)]
    choice = choose(waiting, now_ns=0, least_ns=8 * MS, likely_ns=10 * MS, together=2)
    assert (choice.next, choice.company) == (waiting[4], [waiting[3]])
    assert (choice.stay, choice.drop) == ([waiting[2]], waiting[:2])


def test_what_cannot_be_met_is_dropped() -> None:
    """A part whose deadline has passed, or comes before it could be inspected, is not inspected."""
    waiting = [frame(1, deadline_ms=5), frame(2, deadline_ms=14), frame(3, deadline_ms=30)]
    choice = choose(waiting, now_ns=6 * MS, least_ns=8 * MS, likely_ns=10 * MS)
    assert choice.drop == waiting[:2]
    assert choice.next is waiting[2]


def test_a_part_alone_is_tried_as_long_as_it_can_be_met_at_best() -> None:
    """Where nobody else waits, a part that is likely late but possibly not is inspected: trying costs nothing."""
    choice = choose([frame(1, deadline_ms=15)], now_ns=0, least_ns=3 * MS, likely_ns=60 * MS)
    assert choice.next is not None


def test_the_estimate_covers_the_spread() -> None:
    """Steady durations give a tight estimate, scattered ones a wide one; the least stays by the fastest."""
    steady, scattered = Cost(), Cost()
    for turn in range(50):
        steady.learn(3 * MS)
        scattered.learn((2 + 2 * (turn % 2)) * MS)
    assert 3 * MS <= steady.likely_ns < 3.1 * MS
    assert scattered.likely_ns > 4 * MS
    assert 0 < scattered.least_ns <= 2.1 * MS


def test_a_slow_first_part_does_not_drop_the_next() -> None:
    """The first part of a run is slow; the second one, which comes alone, is inspected."""
    cost = Cost()
    cost.learn(25 * MS)
    waiting = [frame(2, deadline_ms=45)]
    assert choose(waiting, 0, least_ns=round(cost.least_ns), likely_ns=cost.likely_ns).next is waiting[0]


def test_stalls_do_not_drop_parts_for_ever() -> None:
    """After stalls longer than every deadline the least is doubted part by part, until one is tried again."""
    cost = Cost()
    for _ in range(300):
        cost.learn(1000 * MS)
    dropped = 0
    while choose([frame(1, deadline_ms=50)], 0, least_ns=round(cost.least_ns), likely_ns=cost.likely_ns).next is None:
        cost.doubt()
        dropped += 1
    assert 0 < dropped < 50
