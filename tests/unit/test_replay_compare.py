"""Two answers on the same parts: which record belongs to which part, what counts as changed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from line_values import verdict

from inspectd.messages import LateScores, Outcome, Reason, Record
from inspectd.records.rows import StoredPart
from inspectd.replay.compare import against_records, between
from inspectd.replay.footage import FootagePart
from inspectd.replay.line import Replayed


def row(seq: int, outcome: Outcome = Outcome.PASS, *, part_id: str = "", source: str = "") -> StoredPart:
    """A record; its part_id is p<seq> unless it is given."""
    made = verdict(seq, outcome)
    made = replace(made, part_id=part_id or made.part_id)
    return StoredPart(verdict=made, pose=None, source=source, late=None, image=None)


def item(
    outcome: Outcome = Outcome.PASS, *, part_id: str = "p1", source: str = "s", file: str = "f.png", named: bool = False
) -> Replayed:
    """A replayed part that scored 0.25."""
    part = FootagePart(part_id=part_id, source=source, file=file, image=None, named=named)
    return Replayed(Record(verdict=verdict(1, outcome)), part)


def scored(score: float | None) -> Replayed:
    """A replayed part with that part score."""
    made = item()
    return Replayed(Record(verdict=replace(made.record.verdict, part_score=score)), made.part)


def test_an_equal_verdict_is_no_change() -> None:
    """Found by part_id, said again."""
    found = against_records([item(named=True)], [row(1)])
    assert (found.compared, found.unmatched, found.changed) == (1, 0, ())


@pytest.mark.parametrize(("old", "new"), [(Outcome.PASS, Outcome.REJECT), (Outcome.REJECT, Outcome.PASS)])
def test_another_verdict_is_a_change(old: Outcome, new: Outcome) -> None:
    """In either direction, with both answers."""
    change = against_records([item(new, named=True)], [row(1, old)]).changed[0]
    assert (change.old.outcome, change.new.outcome) == (old, new)


def test_a_part_without_a_record_is_counted() -> None:
    """Nothing is compared with a stranger."""
    found = against_records([item(part_id="other", named=True)], [row(1, source="elsewhere")])
    assert (found.compared, found.unmatched) == (0, 1)


def test_a_part_id_with_another_source_is_another_part() -> None:
    """Numbers begin again in new records: `smdc-1` of yesterday is not `smdc-1` of today."""
    records = [row(1, Outcome.REJECT, source="simulated:1/0")]
    assert against_records([item(named=True, source="simulated:1/7")], records).unmatched == 1
    assert len(against_records([item(named=True, source="simulated:1/0")], records).changed) == 1


def test_of_several_records_of_a_part_its_own_number_counts_else_the_newest() -> None:
    """A part that was inspected twice has two records under one part_id."""
    records = [row(1, Outcome.REJECT, part_id="p1"), row(2, Outcome.PASS, part_id="p1")]
    newest = against_records([item(Outcome.PASS, named=True)], records)
    assert newest.changed == ()
    part = replace(item(named=True).part, seq=1)
    own = against_records([Replayed(item().record, part)], records)
    assert [change.old.outcome for change in own.changed] == [Outcome.REJECT]


def test_footage_without_names_is_recognised_by_its_source_or_file_name() -> None:
    """The same path; else the same file name, where only one file has it, on either side."""
    records = [row(1, Outcome.REJECT, source="in/f.png")]
    assert len(against_records([item(source="in/f.png", file="in/f.png")], records).changed) == 1
    assert len(against_records([item(source="copy/f.png", file="copy/f.png")], records).changed) == 1
    twice = [item(source=f"{folder}/f.png", file=f"{folder}/f.png") for folder in "ab"]
    assert against_records(twice, records).unmatched == 2
    two_there = [*records, row(2, source="there/f.png")]
    assert against_records([item(source="copy/f.png", file="copy/f.png")], two_there).unmatched == 1


def test_what_was_not_judged_in_time_is_no_change() -> None:
    """INVALID (late) says nothing of the part: the replay judges it, beside the changes; its late scores count."""
    late = row(1, Outcome.INVALID)
    scores = LateScores(seq=1, part_id="p1", part_score=0.2, region_scores=(), scored_ns=1)
    found = against_records([item(Outcome.REJECT, named=True)], [replace(late, late=scores)])
    assert found.changed == ()
    assert [(change.old.reason, change.old.part_score) for change in found.judged_now] == [(Reason.LATE, 0.2)]
    assert found.largest_shift == pytest.approx(0.05 / 0.5)


def test_the_rank_correlation_is_spearmans() -> None:
    """1 for the same order, -1 for the reverse, ties share their rank, None where there is nothing to rank."""

    def correlation(old: list[float | None], new: list[float | None]) -> float | None:
        return between([scored(score) for score in old], [scored(score) for score in new]).rank_correlation

    assert correlation([1, 2, 3], [10, 20, 40]) == 1.0
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(math.sqrt(0.9))
    assert correlation([1, 1], [1, 2]) == 0.0
    assert correlation([1, None], [1, 2]) is None


def test_the_shift_is_a_share_of_the_score_or_its_limit() -> None:
    """A score near zero does not make a small shift look large: its limit, 0.5, is the scale then."""
    assert between([scored(0.0)], [scored(0.05)]).largest_shift == pytest.approx(0.1)
    assert between([scored(2.0)], [scored(3.0)]).largest_shift == pytest.approx(0.5)


def test_replays_of_different_footage_are_refused() -> None:
    """Two bundles are compared part by part."""
    with pytest.raises(ValueError, match="zip"):
        between([item()], [])
