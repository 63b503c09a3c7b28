"""Property: each part to be rejected is told exactly once, or missed exactly once, under any order of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from line_values import MS, trigger, verdict

from inspectd.encoder import ByEncoder
from inspectd.messages import Action, Command, Outcome, Position, Trigger, Verdict
from inspectd.tracking import ByDelay, Tracker

WINDOW_MS, LEAD_MS = 40, 5
events = st.lists(
    st.tuples(
        st.sampled_from(["trigger", "trigger", "judge", "judge", "judge last", "position", "turn"]),
        st.sampled_from([Outcome.PASS, Outcome.REJECT, Outcome.INVALID]),
        st.integers(0, 15) | st.integers(0, 300),
        st.none() | st.none() | st.integers(-2000, 5000),
    ),
    min_size=10,
    max_size=80,
)
courses = st.sampled_from(["delay", "encoder", "wrapping encoder"])


def made(kind: str, *, hold: bool) -> Tracker:
    """A tracker of one kind."""
    if kind == "delay":
        course = ByDelay(delay_ns=200 * MS, window_ns=WINDOW_MS * MS)
        return Tracker(course, lead_ns=LEAD_MS * MS, hold=hold)
    modulus = 4096 if kind == "wrapping encoder" else None
    by_count = ByEncoder(distance_counts=400, window_counts=80, modulus=modulus, sign=1)
    return Tracker(by_count, lead_ns=LEAD_MS * MS, hold=hold)


def in_time(told: Verdict, now_ns: int) -> bool:
    """Whether a told command can still act within its window, as far as its time is known."""
    reject = told.reject
    return reject is not None and (reject.closes_ns is None or now_ns + LEAD_MS * MS <= reject.closes_ns)


@given(courses, st.booleans(), events)
def test_each_reject_is_told_once_or_missed_once(
    kind: str, hold: bool, happened: list[tuple[str, Outcome, int, int | None]]
) -> None:
    """Whatever the belt, the gate and the clock do: never both, never twice, never none, never after the window."""
    rule, now_ms, count = made(kind, hold=hold), 0, 0
    waiting: list[Trigger] = []
    wanted: list[int] = []
    told: list[int] = []

    def tell(verdicts: list[Verdict]) -> None:
        for each in verdicts:
            assert each.reject is not None
            assert each.reject.command is not Command.HELD
            assert (each.reject.command is Command.MISSED) == bool(each.reject.detail)
            assert each.reject.command is Command.MISSED or in_time(each, now_ms * MS)
            if hold and each.reject.command is Command.SCHEDULED and kind == "delay":
                assert each.reject.opens_ns is not None
                assert now_ms * MS >= each.reject.opens_ns - LEAD_MS * MS
            told.append(each.seq)

    for seq, (event, outcome, number, jump) in enumerate(happened):
        now_ms += number
        count = count + number if jump is None else jump
        if event == "trigger":
            part = replace(trigger(seq, at_ms=now_ms), encoder=None if jump == 0 else count)
            rule.on_trigger(part)
            waiting.append(part)
        elif event == "position":
            rule.on_position(Position(count=count, at_ns=now_ms * MS))
        elif event.startswith("judge") and waiting:
            part = waiting.pop(-1 if event == "judge last" else 0)
            given_ = replace(
                verdict(part.seq, outcome), part_id=part.part_id, trigger_ns=part.trigger_ns, encoder=part.encoder
            )
            answer = rule.on_verdict(given_, now_ms * MS)
            assert (answer.reject is None) == (answer.action is Action.ACCEPT)
            if answer.reject is not None:
                wanted.append(answer.seq)
                if answer.reject.command is not Command.HELD:
                    tell([answer])
        tell(rule.due(now_ms * MS))
        due_ns = rule.next_due_ns(now_ms * MS)
        assert due_ns is None or due_ns > now_ms * MS
    tell(rule.close(now_ms * MS))
    assert Counter(told) == Counter(wanted)
    assert rule.held == 0
    assert rule.next_due_ns(now_ms * MS) is None
