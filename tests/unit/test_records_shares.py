"""Rows and images share `keep_bytes`: neither pushes the other out, images of rejects go last, health says so first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from line_values import verdict
from prometheus_client import CollectorRegistry
from recorder_desk import Context, Desk
from structlog.testing import capture_logs

from inspectd.health.storage_watch import StorageWatch, Usage
from inspectd.messages import Outcome, Record, StoredImage
from inspectd.records.reading import RecordReader
from inspectd.records.retention import NS_PER_DAY
from inspectd.sections import RecordSettings

KEEP_BYTES = 2**21
GIB = 2**30
SHARE_BYTES = 5 * GIB - 4 * 2**20
"""Half of the default budget, less what the WAL may take."""


@pytest.fixture
def desk(context: Context, tmp_path: Path) -> Iterator[Desk]:
    """A recorder that keeps two MiB."""
    with closing(Desk(context, tmp_path, keep_bytes=KEEP_BYTES)) as made:
        yield made


def image(seq: int, outcome: Outcome, *, size_bytes: int = 10_000) -> list[Record | StoredImage]:
    """A part and its image, of which the row alone says how large it is."""
    path = f"images/2026-09-21/{seq:010d}-{outcome.value}.png"
    stored = StoredImage(seq=seq, path=path, size_bytes=size_bytes)
    return [Record(verdict=verdict(seq, outcome, wall_ns=time.time_ns())), stored]


def kept(desk: Desk) -> dict[Outcome, list[int]]:
    """Whose images are left once retention has done what it does in a row."""
    desk.retention._next_s = 0.0
    while desk.retention.step():
        pass
    left: dict[Outcome, list[int]] = {outcome: [] for outcome in Outcome}
    with RecordReader(desk.folder) as reader:
        for part in reader.all():
            if part.image is not None:
                left[part.verdict.outcome].append(part.verdict.seq)
    return left


def rows(first: int, count: int) -> list[Record]:
    """Parts without an image, of some 1.5 kB each."""
    return [
        Record(verdict=verdict(seq, wall_ns=time.time_ns()), source="x" * 1000) for seq in range(first, first + count)
    ]


def test_rows_that_fill_the_budget_push_no_image_of_a_rejected_part_out(desk: Desk) -> None:
    """Rows alone reach keep_bytes: the oldest rows go; young images of rejects stay, within their share."""
    desk.ledger.write(rows(1, 2500))
    rejected = list(range(2501, 2521))
    desk.ledger.write([row for seq in rejected for row in image(seq, Outcome.REJECT)])
    assert desk.retention.used_bytes() > KEEP_BYTES
    assert kept(desk)[Outcome.REJECT] == rejected
    assert desk.retention.used_bytes() <= KEEP_BYTES
    with RecordReader(desk.folder) as reader:
        assert next(reader.all()).verdict.seq > 1


def test_images_that_fill_the_budget_push_no_row_out(desk: Desk) -> None:
    """Images go for images, although rows take less than their share."""
    desk.ledger.write(rows(1, 300))
    desk.ledger.write([row for seq in range(301, 701) for row in image(seq, Outcome.REJECT)])
    left = kept(desk)[Outcome.REJECT]
    assert left[-1] == 700
    assert desk.retention.used_bytes() <= KEEP_BYTES
    with RecordReader(desk.folder) as reader:
        assert next(reader.all()).verdict.seq == 1


def test_images_of_rejected_parts_go_last(desk: Desk) -> None:
    """First those of passed parts, then of invalid ones, each the oldest first, although rejects are older still."""
    order = (Outcome.REJECT, Outcome.INVALID, Outcome.PASS)
    kinds = [kind for kind in order for _ in range(100)]
    desk.ledger.write([row for seq, kind in enumerate(kinds, 1) for row in image(seq, kind)])
    left = kept(desk)
    assert left[Outcome.REJECT] == list(range(1, 101))
    assert left[Outcome.INVALID] == list(range(left[Outcome.INVALID][0], 201))
    assert left[Outcome.PASS] == []
    desk.ledger.write([row for seq in range(301, 401) for row in image(seq, Outcome.REJECT)])
    left = kept(desk)
    assert left[Outcome.INVALID] == []
    assert left[Outcome.REJECT] == list(range(left[Outcome.REJECT][0], 101)) + list(range(301, 401))


def test_either_may_use_what_the_other_leaves(desk: Desk) -> None:
    """A share is what a side keeps for certain, not the most that it may take."""
    desk.ledger.write([row for seq in range(1, 151) for row in image(seq, Outcome.REJECT)])
    assert len(kept(desk)[Outcome.REJECT]) == 150


def watch(**settings: float) -> StorageWatch:
    """A watch over ten GiB, of which each side has five."""
    return StorageWatch(RecordSettings.model_validate(settings), CollectorRegistry())


def usage(rows_gib: float, images_gib: float, evidence_gib: float = 0.0, *, days: float = 3.0) -> Usage:
    """What a database and images of some days take."""
    return Usage(
        rows_bytes=round(rows_gib * GIB),
        images_bytes=round(images_gib * GIB),
        evidence_bytes=round(evidence_gib * GIB),
        rows_days=days,
        evidence_days=days,
        rows_hold_days=days,
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (usage(9.1, 0.1, 0.1), "the oldest records go next"),
        (usage(4.8, 4.6, 4.6), "the oldest records go next"),
        (usage(2.0, 7.3, 7.0), "images of rejected and invalid parts go next"),
    ],
)
def test_health_says_what_will_be_deleted_before_it_is(found: Usage, words: str) -> None:
    """From nine tenths on: degraded and one log line, with what to change; it is over once there is room."""
    storage = watch()
    with capture_logs() as logged:
        storage.take(found)
        storage.take(found)
    assert any(words in worry and "records.keep_bytes" in worry for worry in storage.worries())
    assert len(logged) == len(storage.worries())
    storage.take(usage(1.0, 1.0, 1.0))
    assert storage.worries() == []


@pytest.mark.parametrize(
    "found",
    [
        usage(8.0, 0.5, 0.5),  # there is room
        usage(2.0, 7.9, 0.5),  # images of passed parts go, as they are meant to
        usage(9.1, 0.1, days=91.0),  # they go for their age
    ],
)
def test_health_is_silent_while_nothing_is_lost_early(found: Usage) -> None:
    """What goes as the settings mean it to needs nobody."""
    storage = watch()
    storage.take(found)
    assert storage.worries() == []


def test_the_report_and_the_metrics_say_what_is_used_and_how_long_it_lasts() -> None:
    """Before the first look there is nothing to tell; then bytes of each side, its share, and days."""
    registry = CollectorRegistry()
    storage = StorageWatch(RecordSettings(), registry)
    assert storage.report()["rows_bytes"] is None
    storage.take(usage(2.0, 3.0, 1.0, days=4.0))
    report = storage.report()
    assert (report["rows_bytes"], report["images_bytes"]) == (2 * GIB, 3 * GIB)
    assert (report["keep_bytes"], report["rows_share_bytes"]) == (10 * GIB, SHARE_BYTES)
    assert report["rows_hold_days"] == 4.0
    assert registry.get_sample_value("inspectd_records_bytes", {"of": "rows"}) == 2 * GIB
    assert registry.get_sample_value("inspectd_records_bytes", {"of": "images"}) == 3 * GIB
    assert registry.get_sample_value("inspectd_records_share_bytes", {"of": "images"}) == SHARE_BYTES
    assert registry.get_sample_value("inspectd_records_rows_hold_days") == 4.0


def test_how_long_the_share_of_rows_lasts_follows_from_the_records(desk: Desk) -> None:
    """A part every 8.64 s is 10 000 a day; the share of the rows divided by what so many take."""
    now_ns = time.time_ns()
    step_ns = NS_PER_DAY // 10_000
    desk.ledger.write([Record(verdict=verdict(seq, wall_ns=now_ns + seq * step_ns)) for seq in range(1, 501)])
    kept(desk)
    report = desk.storage.report()
    per_part = report["rows_bytes"] / 500
    assert report["rows_hold_days"] == pytest.approx(report["rows_share_bytes"] / per_part / 10_000, rel=0.02)
