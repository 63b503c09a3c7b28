"""Property: what a stage sends is what the next one gets; anything else is a WireError, never a crash."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from line_values import frame, verdict

from inspectd.messages import (
    Action,
    Command,
    Fault,
    Frame,
    LateScores,
    Outcome,
    Pose,
    Position,
    Reason,
    Record,
    Reject,
    Scores,
    StoredImage,
    Thresholds,
    ToldReject,
    Trigger,
    Verdict,
)
from inspectd.wire.errors import WireError
from inspectd.wire.questions import parse_question
from inspectd.wire.stages import Message, decode, encode

words = st.text(max_size=40)
whole = st.integers(-(2**62), 2**62)
number = st.floats(allow_nan=False, allow_infinity=False)
named = st.lists(st.tuples(words, number), max_size=4).map(tuple)
shape = st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))
image = arrays.arrays(np.uint8, shape)
anomaly_map = arrays.arrays(np.float32, (2, 3), elements=st.floats(0, 10, width=32))
pose = st.builds(Pose, x_px=number, y_px=number, angle_deg=number, scale=number)
limits = st.builds(Thresholds, part=number, regions=named)
count = st.none() | whole
rejects = st.builds(
    Reject,
    command=st.sampled_from(Command),
    **dict.fromkeys(["opens_ns", "closes_ns", "from_count", "to_count"], count),
    neighbour=words,
    detail=words,
)
verdicts = st.builds(
    Verdict,
    station=words,
    seq=whole,
    part_id=words,
    outcome=st.sampled_from(Outcome),
    reason=st.sampled_from(Reason),
    detail=words,
    action=st.sampled_from(Action),
    part_score=st.none() | number,
    region_scores=named,
    thresholds=limits,
    bundle_hash=words,
    **dict.fromkeys(
        ["trigger_ns", "trigger_wall_ns", "captured_ns", "scored_ns", "verdict_ns", "deadline_ns", "located_ns"], whole
    ),
    label=words,
    encoder=count,
    reject=st.none() | rejects,
)
part = {"seq": whole, "part_id": words}
messages = st.one_of(
    st.builds(
        Trigger, station=words, **part, trigger_ns=whole, trigger_wall_ns=whole, deadline_ns=whole, encoder=count
    ),
    st.builds(Position, count=whole, at_ns=whole),
    st.builds(
        Frame,
        **part,
        trigger_ns=whole,
        captured_ns=whole,
        deadline_ns=whole,
        image=image,
        exposure_us=st.none() | number,
        source=words,
        label=words,
    ),
    st.builds(
        Scores,
        **part,
        part_score=number,
        region_scores=named,
        thresholds=limits,
        bundle_hash=words,
        captured_ns=whole,
        located_ns=whole,
        scored_ns=whole,
        pose=st.none() | pose,
        label=words,
        source=words,
        image=st.none() | image,
        part_image=st.none() | image,
        anomaly_map=st.none() | anomaly_map,
    ),
    st.builds(Fault, **part, reason=st.sampled_from(Reason), detail=words, image=st.none() | image),
    st.builds(Record, verdict=verdicts, pose=st.none() | pose, source=words, image=st.none() | image),
    st.builds(LateScores, **part, part_score=number, region_scores=named, scored_ns=whole),
    st.builds(StoredImage, seq=whole, path=words, size_bytes=whole),
    st.builds(ToldReject, **part, reject=rejects, told_ns=whole),
)


def same(left: Any, right: Any) -> bool:
    """Equal, array by array."""
    if is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, field.name), getattr(right, field.name)) for field in fields(left)
        )
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and np.array_equal(left, right)
    return bool(left == right)


def sent(message: Message) -> list[bytes]:
    """The frames as they arrive."""
    return [bytes(frame) for frame in encode(message)]


@given(messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    """Encoding, then decoding, gives an equal message."""
    assert same(decode(sent(message)), message)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_is_a_wire_error(frames: list[bytes]) -> None:
    """Bytes that are no message raise WireError and nothing else."""
    with pytest.raises(WireError):
        decode(frames)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(messages, st.data())
def test_a_field_of_another_type_is_refused_or_harmless(message: Message, data: st.DataObject) -> None:
    """Whatever stands in one field: WireError, or a message of the right type."""
    header, *buffers = sent(message)
    tree = json.loads(header)
    name = data.draw(st.sampled_from(sorted(tree["fields"])))
    tree["fields"][name] = data.draw(json_values)
    try:
        found = decode([json.dumps(tree).encode(), *buffers])
    except WireError:
        return
    assert type(found) is type(message)


def test_arrays_are_the_senders_own_memory_and_read_only() -> None:
    """A frame is not copied on its way, and nobody downstream can write into the camera's memory."""
    message = frame()
    parts = encode(message)
    found = decode([memoryview(part).cast("B") for part in parts])
    assert isinstance(found, Frame)
    assert np.shares_memory(found.image, message.image)
    assert not found.image.flags.writeable


@pytest.mark.parametrize("field", ["version", "type", "shapes"])
def test_another_version_type_or_shape_is_refused(field: str) -> None:
    """A header of another version, of an unknown type, or whose shape does not fit the bytes is a WireError."""
    header, *buffers = sent(frame())
    tree = json.loads(header)
    tree[field] = {"version": 99, "type": "Verdict", "shapes": {"image": [20, 31, 3]}}[field]
    with pytest.raises(WireError):
        decode([json.dumps(tree).encode(), *buffers])


def test_scores_that_are_not_finite_travel_as_null() -> None:
    """JSON knows no NaN: it is sent as null, and read as NaN."""
    late = LateScores(seq=1, part_id="p", part_score=float("nan"), region_scores=(("a", float("inf")),), scored_ns=1)
    header = sent(late)[0]
    assert b"NaN" not in header
    assert b"Infinity" not in header
    found = decode([header])
    assert isinstance(found, LateScores)
    assert np.isnan(found.part_score)
    assert np.isnan(found.region_scores[0][1])


def test_a_record_carries_its_verdict_whole() -> None:
    """A nested message comes back equal."""
    record = Record(verdict=verdict(5, Outcome.REJECT))
    assert same(decode(sent(record)), record)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_question_is_understood_or_refused(data: bytes) -> None:
    """Any bytes on the query socket: a question, or WireError."""
    try:
        parse_question(data)
    except WireError as error:
        assert "\n" not in str(error)  # noqa: PT017 - that it is raised is optional, that it is one line is not
