"""Wire: any bytes into any reader of messages give a message or the documented error, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_values import RUN, fault, frame, scores, trigger, verdict

from inspectd.messages import Position, Record
from inspectd.trigger_message import Ask, parse_message
from inspectd.wire.errors import WireError
from inspectd.wire.public import from_bytes, result, to_bytes
from inspectd.wire.questions import MAX_QUESTION_BYTES, MAX_SEQ, answer_error, parse_question
from inspectd.wire.stages import decode, encode

LIMITS = settings(max_examples=300, deadline=1000)
NOW_NS = 10**15
STAGE_MESSAGES = [
    [bytes(part) for part in encode(message)]
    for message in (trigger(), frame(), scores(), fault(), Record(verdict=verdict()))
]
ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 10**400, -1, 0])
    | st.floats()
    | st.text(max_size=10)
)
JSON = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NASTY = [
    b"",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"9" * 5000,
    b'{"part_id": NaN}',
    b'{"part_id": "\\ud800"}',
    b'{"part_id": "a\\u0000b"}',
    b'{"age_ms": NaN}',
    b'{"age_ms": -1}',
    b'{"age_ms": 1e308}',
    b'{"age_ms": true}',
    b'{"encoder": 1e3}',
    b'{"encoder": 99999999999999999999}',
    b'{"ask": "results", "from_seq": -1, "to_seq": 1}',
    b'{"ask": "results", "from_seq": 1, "to_seq": 1e30}',
    b'{"ask": "map", "seq": true}',
    b'{"ask": ["results"]}',
    b'{"ask": {"results": 1}}',
    b"null",
    b'"status"',
]


def read_trigger(parts: list[bytes]) -> Ask | Position | None:
    """What the trigger stage reads, None where it refuses; any other error fails the test."""
    try:
        return parse_message(parts, NOW_NS)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - what is refused, is refused in one line
        return None


def check_trigger(found: Ask | Position | None) -> None:
    """What is taken has a printable name, a count that fits, a moment that is not in the future, and travels."""
    if isinstance(found, Ask):
        assert found.part_id is None or (0 < len(found.part_id) <= 128 and found.part_id.isprintable())
        assert found.encoder is None or abs(found.encoder) <= 1 << 53
        assert NOW_NS - 60_000_000_000 <= found.due_ns <= NOW_NS
        assert len(found.sent_id.encode("utf-8")) <= 6 * 1024
    elif isinstance(found, Position):
        assert type(found.count) is int
        assert found.at_ns <= NOW_NS


def read_question(data: bytes) -> object | None:
    """What the query stage reads, None where it refuses."""
    try:
        return parse_question(data)
    except WireError:
        return None


@pytest.mark.parametrize("data", NASTY)
def test_what_breaks_readers_is_refused_by_ours(data: bytes) -> None:
    """Not UTF-8, deep, NaN, huge and negative numbers, wrong types: refused by every reader but that of triggers."""
    check_trigger(read_trigger([data]))
    assert read_question(data) is None
    with pytest.raises(WireError):
        from_bytes(data, "inspectd.result")
    with pytest.raises(WireError):
        decode([data])


@LIMITS
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_arbitrary_bytes_into_every_reader(data: bytes) -> None:
    """A message, or the documented error."""
    read_trigger([data])
    read_question(data)
    for read in (lambda: from_bytes(data, "inspectd.result"), lambda: decode([data]), lambda: decode([data, data])):
        with pytest.raises(WireError):
            read()


@LIMITS
@given(parts=st.lists(st.binary(max_size=20), max_size=6))
def test_any_number_of_frames_is_a_trigger_or_refused(parts: list[bytes]) -> None:
    """One frame is read; none, or several, are not."""
    found = read_trigger(parts)
    assert found is None or len(parts) == 1


@LIMITS
@given(message=st.dictionaries(st.sampled_from(["part_id", "encoder", "age_ms", "position", "x"]), JSON, max_size=4))
def test_triggers_of_any_values_are_well_formed_or_refused(message: dict[str, Any]) -> None:
    """What is taken has a printable name, a count that fits, and a moment that is not in the future."""
    found = read_trigger([json.dumps(message).encode()])
    check_trigger(found)
    assert isinstance(found, Ask) or "position" in message


@LIMITS
@given(
    message=st.dictionaries(
        st.sampled_from(["from_seq", "to_seq", "seq", "version", "names", "by", "patience_s", "x"]),
        JSON | st.sampled_from([1, 5, ["a", "b"], ["a", "a"], "me"]),
        max_size=5,
    ),
    kind=JSON | st.sampled_from(["results", "map", "status", "challenge"]),
)
def test_questions_of_any_values_are_well_formed_or_refused(message: dict[str, Any], kind: Any) -> None:
    """What is taken asks for sequence numbers that fit the database, in order, or for names that are texts."""
    found = read_question(json.dumps({**message, "ask": kind}).encode())
    assert all(isinstance(name, str) and name for name in getattr(found, "names", ()))
    numbers = [getattr(found, name) for name in ("from_seq", "to_seq", "seq") if hasattr(found, name)]
    assert all(type(number) is int and 0 <= number <= MAX_SEQ for number in numbers)
    assert numbers == sorted(numbers)


def test_a_question_that_is_too_long_is_refused_unread() -> None:
    """By its length, whatever it holds."""
    with pytest.raises(WireError, match="at most 4096 bytes"):
        parse_question(b'{"ask": "status"}' + b" " * MAX_QUESTION_BYTES)


@LIMITS
@given(which=st.integers(0, 100), place=st.integers(0, 1 << 16), more=st.binary(max_size=5), length=st.integers(0, 5))
def test_mutated_stage_messages_are_messages_or_refused(which: int, place: int, more: bytes, length: int) -> None:
    """Bytes cut out of a header or an array, and others put in: decoded whole, or WireError."""
    parts = list(STAGE_MESSAGES[which % len(STAGE_MESSAGES)])
    index = place % len(parts)
    at = place % len(parts[index])
    parts[index] = parts[index][:at] + more + parts[index][at + length :]
    try:
        message = decode(parts)
    except WireError:
        return
    assert decode([bytes(part) for part in encode(message)]) is not None


@LIMITS
@given(which=st.integers(0, 100), steps=st.lists(st.integers(0, 30), min_size=1, max_size=4), value=JSON)
def test_any_value_in_any_field_of_a_stage_message(which: int, steps: list[int], value: Any) -> None:
    """A type, version, field, shape or number of any kind: decoded, or WireError."""
    parts = list(STAGE_MESSAGES[which % len(STAGE_MESSAGES)])
    header: Any = json.loads(parts[0])
    inner = header
    for step in steps[:-1]:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        if not keys or not isinstance(inner[keys[step % len(keys)]], dict | list):
            break
        inner = inner[keys[step % len(keys)]]
    keys = list(inner) if isinstance(inner, dict) else range(len(inner))
    if keys:
        inner[keys[steps[-1] % len(keys)]] = value
    parts[0] = json.dumps(header).encode()
    try:
        decode(parts)
    except WireError:
        return


@LIMITS
@given(kind=st.sampled_from(["result", "answer"]), place=st.integers(0, 1 << 16), more=st.binary(max_size=5))
def test_mutated_public_messages_are_objects_or_refused(kind: str, place: int, more: bytes) -> None:
    """A client that reads a damaged message gets an object of that schema, or WireError."""
    good = to_bytes(result(verdict(), RUN) if kind == "result" else answer_error("for a test", RUN))
    at = place % len(good)
    try:
        message = from_bytes(good[:at] + more + good[at + len(more) :], f"inspectd.{kind}")
    except WireError:
        return
    assert message["schema"] == f"inspectd.{kind}"
