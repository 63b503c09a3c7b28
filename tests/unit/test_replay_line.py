"""The line without threads and deadlines: the same stages, the same answers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from fake_runtime import FakeRuntime
from line_values import BUNDLE_HASH, LIMITS, REGIONS

from engines.settings import CanvasSettings
from inspectd.cameras.simulated import render_part
from inspectd.engine_guard import Engine
from inspectd.loading import locate_part
from inspectd.locate import Locator
from inspectd.messages import Action, Outcome, Reason
from inspectd.replay.footage import FootagePart
from inspectd.replay.line import ReplayLine, replay
from inspectd.sections import LocateSettings


def line(runtime: FakeRuntime) -> ReplayLine:
    """A replay line around a runtime without a network."""
    engine = Engine(runtime=runtime, regions=REGIONS, thresholds=LIMITS, bundle_hash=BUNDLE_HASH)
    locate = locate_part(Locator(LocateSettings(), CanvasSettings()))
    return ReplayLine("test", engine=engine, locate=locate, invalid_action="stop")


def part(index: int = 0, fault: str = "") -> FootagePart:
    """A part of the simulated line, or one that cannot be read."""
    image = None if fault else render_part(1, index).image
    return FootagePart(part_id=f"p{index}", source=f"s{index}", file=f"{index}.png", image=image, fault=fault)


@pytest.mark.parametrize(("score", "outcome"), [(0.5, Outcome.PASS), (0.51, Outcome.REJECT)])
def test_the_limits_decide(score: float, outcome: Outcome) -> None:
    """A score at its limit passes, one above it rejects; the record names part, source, pose and bundle."""
    record = line(FakeRuntime(score=lambda image: score)).judge(part(3))
    assert record.verdict.outcome is outcome
    assert (record.verdict.part_id, record.source, record.verdict.bundle_hash) == ("p3", "s3", BUNDLE_HASH)
    assert record.pose is not None


def test_what_cannot_be_judged_is_invalid_as_on_the_line() -> None:
    """An unreadable image, a score that is not a number and a dead engine: INVALID, and the line's action for it."""
    runtime = FakeRuntime(score=lambda image: math.nan)
    tested = line(runtime)
    bad, nan = tested.judge(part(fault="damaged")).verdict, tested.judge(part()).verdict
    runtime.slot.fault = "dead"
    dead = tested.judge(part()).verdict
    assert [said.reason for said in (bad, nan, dead)] == [Reason.BAD_IMAGE, Reason.NOT_A_NUMBER, Reason.ENGINE_FAULT]
    assert bad.detail == "damaged"
    assert {said.action for said in (bad, nan, dead)} == {Action.STOP}
    assert tested.judge(part()).verdict.seq == 4


def test_each_image_is_read_once_for_all_lines_and_let_go() -> None:
    """The footage is read in order, by every line, no further than asked for; results keep no pixels."""
    read = []

    def footage() -> Iterator[FootagePart]:
        for index in range(9):
            read.append(index)
            yield part(index)

    dark, bright = FakeRuntime(score=lambda image: 0.1), FakeRuntime(score=lambda image: 0.9)
    done: list[int] = []
    first, second = replay(footage(), [line(dark), line(bright)], max_parts=4, progress=done.append)
    assert read == [0, 1, 2, 3]
    assert done == [1, 2, 3, 4]
    assert [item.part.part_id for item in first] == [item.part.part_id for item in second] == ["p0", "p1", "p2", "p3"]
    assert {item.record.verdict.outcome for item in first} == {Outcome.PASS}
    assert {item.record.verdict.outcome for item in second} == {Outcome.REJECT}
    assert all(item.part.image is None and item.record.image is None for item in (*first, *second))
