"""Challenges on the line: which numbers are challenge parts, when a challenge ends, and when health asks for one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from line_values import BUNDLE_HASH, verdict

from inspectd.challenge import GRACE_NS, ChallengeDesk, ChallengeRefused, ChallengeReminder
from inspectd.messages import Outcome, Record
from inspectd.records.challenges import Challenge, ChallengePart, read_challenges, to_note
from inspectd.records.ledger import Ledger, Note
from inspectd.wire.public import schema

HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """New records."""
    made = Ledger(tmp_path)
    yield made
    made.close()


def seen(desk: ChallengeDesk, seq: int, outcome: Outcome = Outcome.REJECT, *, after_ns: int = 0) -> list[Note]:
    """The desk's answer to the record of a part that is triggered so long from now."""
    made = replace(verdict(seq, outcome), trigger_ns=time.monotonic_ns() + after_ns)
    made = replace(made, verdict_ns=made.trigger_ns + 1, challenge=desk.name_of(seq, made.trigger_ns))
    return desk.take(Record(verdict=made))


def a_challenge(outcome: str = "REJECT", *, ago_ns: int = 0, bundle_hash: str = BUNDLE_HASH) -> Challenge:
    """One that ended so long ago."""
    return Challenge(
        way="images",
        by="M. Curie",
        bundle_hash=bundle_hash,
        begun_wall_ns=time.time_ns() - ago_ns - 1,
        ended_wall_ns=time.time_ns() - ago_ns,
        parts=(ChallengePart(name="crack", outcome=outcome),),
        source="bad",
    )


def test_the_next_numbers_are_the_challenge_parts() -> None:
    """From the next trigger on, in order, and no further."""
    desk = ChallengeDesk(lambda: 10, BUNDLE_HASH)
    assert desk.name_of(10, 0) == ""
    assert desk.begin(("crack", "dent"), "M. Curie", 60) == (10, 11)
    assert [desk.name_of(seq, time.monotonic_ns()) for seq in (9, 10, 11, 12)] == ["", "crack", "dent", ""]


def test_a_challenge_ends_with_its_last_part_and_is_one_entry_of_the_records(ledger: Ledger, tmp_path: Path) -> None:
    """Ordinary parts do not end it; the entry says who, which parts, their numbers and what became of them."""
    desk = ChallengeDesk(lambda: 10, BUNDLE_HASH)
    desk.begin(("crack", "dent"), "M. Curie", 60)
    assert seen(desk, 9, Outcome.PASS) == []
    assert seen(desk, 11, Outcome.INVALID) == []
    (note,) = seen(desk, 10)
    assert (note.first, note.last) == (10, 11)
    ledger.write([note])
    (challenge,) = read_challenges(tmp_path)
    assert [(part.name, part.outcome, part.seq) for part in challenge.parts] == [
        ("crack", "REJECT", 10),
        ("dent", "INVALID", 11),
    ]
    assert not challenge.passed
    assert desk.name_of(10, time.monotonic_ns()) == ""
    assert json.loads(note.detail)["passed"] is False


def test_one_challenge_at_a_time() -> None:
    """A second one is refused in words while the first goes on, and let in after it."""
    desk = ChallengeDesk(lambda: 1, BUNDLE_HASH)
    desk.begin(("crack",), "M. Curie", 60)
    with pytest.raises(ChallengeRefused, match=r"a challenge by M\. Curie goes on"):
        desk.begin(("dent",), "L. Meitner", 60)
    assert seen(desk, 1)
    assert desk.begin(("dent",), "L. Meitner", 60) == (1, 1)


def test_parts_after_its_time_are_ordinary_ones_and_end_it() -> None:
    """Who walks away leaves no trap: later parts are not marked, and those that never came are recorded as such."""
    desk = ChallengeDesk(lambda: 1, BUNDLE_HASH)
    desk.begin(("crack", "dent"), "M. Curie", 5)
    assert seen(desk, 1) == []
    late_ns = 5_000_000_000 + GRACE_NS + 1_000_000_000
    assert desk.name_of(2, time.monotonic_ns() + late_ns) == ""
    (note,) = seen(desk, 2, Outcome.PASS, after_ns=late_ns)
    assert [part["outcome"] for part in json.loads(note.detail)["parts"]] == ["REJECT", "never_came"]


def test_a_stop_records_what_there_is(ledger: Ledger, tmp_path: Path) -> None:
    """A challenge that the daemon's stop cuts short is not lost, and not passed."""
    desk = ChallengeDesk(lambda: 1, BUNDLE_HASH)
    desk.close(ledger)
    desk.begin(("crack",), "M. Curie", 60)
    desk.close(ledger)
    (challenge,) = read_challenges(tmp_path)
    assert [part.outcome for part in challenge.parts] == ["never_came"]
    assert not challenge.passed


def test_health_asks_for_a_challenge_that_is_due(ledger: Ledger, tmp_path: Path) -> None:
    """Where a reminder is set: none passed with this bundle, or too long ago. What failed does not count."""
    ledger.write([to_note(a_challenge("PASS")), to_note(a_challenge(bundle_hash="cd" * 32))])
    reminder = ChallengeReminder(tmp_path, BUNDLE_HASH, 8)
    reminder.refresh()
    assert reminder.worries() == ["no challenge has been passed with this bundle: `inspectd challenge`"]
    ledger.write([to_note(a_challenge(ago_ns=9 * HOUR_NS))])
    reminder.judged_by(BUNDLE_HASH)
    reminder.refresh()
    assert reminder.worries() == ["the last challenge was passed 9.0 hours ago, due every 8"]
    ledger.write([to_note(a_challenge(ago_ns=HOUR_NS))])
    reminder.judged_by(BUNDLE_HASH)
    reminder.refresh()
    assert reminder.worries() == []
    jsonschema.validate(reminder.report(), schema("health")["properties"]["challenge"])


def test_without_a_reminder_nobody_is_reminded(tmp_path: Path) -> None:
    """Off by default: nothing is read, nothing degrades."""
    reminder = ChallengeReminder(tmp_path / "nowhere", BUNDLE_HASH, None)
    reminder.refresh()
    assert reminder.worries() == []
    jsonschema.validate(reminder.report(), schema("health")["properties"]["challenge"])
