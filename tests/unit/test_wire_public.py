"""The published messages: they follow their schemas, and the schemas refuse what they should."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from line_values import MS, RUN, verdict
from referencing import Registry, Resource

from inspectd.messages import Command, Outcome, Reject
from inspectd.wire.errors import WireError
from inspectd.wire.public import SCHEMAS, from_bytes, missed, reject, result, schema, to_bytes
from inspectd.wire.questions import (
    AskChallenge,
    AskMap,
    AskResults,
    AskStatus,
    answer_error,
    answer_map,
    answer_results,
    parse_question,
)

REGISTRY: Registry[Any] = Registry().with_resources(
    (f"inspectd.{name}.v1", Resource.from_contents(schema(name))) for name in SCHEMAS
)


def validate(message: dict[str, Any], name: str) -> None:
    """Raise ValidationError where the message does not follow its schema, as it arrives."""
    Draft202012Validator(schema(name), registry=REGISTRY).validate(json.loads(to_bytes(message)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_valid_schemas(name: str) -> None:
    """Each published schema is itself valid JSON Schema 2020-12."""
    Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_results_follow_their_schema(outcome: Outcome) -> None:
    """A result of each outcome follows the published schema."""
    validate(result(verdict(3, outcome), RUN), "result")


def test_a_result_says_everything_of_the_part() -> None:
    """Scores, limits, times in UTC with microseconds, and durations from the monotonic clock."""
    message = result(verdict(3), RUN)
    assert message["part_score"] == 0.25
    assert message["region_scores"]["body"] == 0.25
    assert message["thresholds"] == {"part": 0.5, "regions": dict.fromkeys(message["region_scores"], 0.5)}
    assert message["triggered_at"] == "2026-09-21T14:13:20.000000Z"
    assert message["decided_at"] == "2026-09-21T14:13:20.006000Z"
    assert (message["capture_ms"], message["locate_ms"], message["engine_ms"], message["latency_ms"]) == (1, 1, 3, 6)


def test_what_did_not_happen_is_null() -> None:
    """A part without frame or scores has null times, never zero ones."""
    message = result(verdict(3, Outcome.INVALID), RUN)
    assert message["captured_at"] is None
    assert message["engine_ms"] is None
    assert message["part_score"] is None


def test_nan_is_never_sent() -> None:
    """A score that is not a number is null in the JSON."""
    message = result(replace(verdict(3, Outcome.INVALID), part_score=float("nan")), RUN)
    assert b"NaN" not in to_bytes(message)
    validate(message, "result")


def test_a_pass_without_score_breaks_the_schema() -> None:
    """The schema itself refuses a PASS that was not measured."""
    message = result(replace(verdict(3), part_score=None), RUN)
    with pytest.raises(ValidationError):
        validate(message, "result")


def test_an_unknown_field_breaks_the_schema() -> None:
    """A message with a field that the version does not have is refused."""
    with pytest.raises(ValidationError):
        validate({**result(verdict(3), RUN), "colour": "red"}, "result")


def test_rejects_follow_their_schema() -> None:
    """The reject signal follows its schema, for REJECT and INVALID."""
    for outcome in (Outcome.REJECT, Outcome.INVALID):
        message = reject(verdict(3, outcome), 20 * MS, RUN)
        validate(message, "reject")
        assert message["window"] is None


def test_a_tracked_reject_says_when_to_act() -> None:
    """Wall-clock times from the trigger, durations from the message's leaving, counts, and a neighbour in danger."""
    window = Reject(
        command=Command.SCHEDULED, opens_ns=210 * MS, closes_ns=220 * MS, from_count=7, to_count=9, neighbour="p4"
    )
    message = reject(replace(verdict(3, Outcome.REJECT), reject=window), 20 * MS, RUN)
    validate(message, "reject")
    assert message["window"] == {
        "opens_at": "2026-09-21T14:13:20.200000Z",
        "closes_at": "2026-09-21T14:13:20.210000Z",
        "opens_in_ms": 190,
        "closes_in_ms": 200,
        "from_count": 7,
        "to_count": 9,
        "neighbour": "p4",
    }


def test_a_window_without_a_time_estimate_has_null_times() -> None:
    """A belt that stands leaves the counts."""
    window = Reject(command=Command.SCHEDULED, from_count=7, to_count=9)
    message = reject(replace(verdict(3, Outcome.REJECT), reject=window), 20 * MS, RUN)
    validate(message, "reject")
    assert (message["window"]["opens_in_ms"], message["window"]["opens_at"]) == (None, None)


def test_a_missed_reject_follows_its_own_schema_and_not_that_of_rejects() -> None:
    """Whoever acts on rejects cannot take it for one."""
    gone = replace(verdict(3, Outcome.REJECT), reject=Reject(command=Command.MISSED, detail="too late"))
    validate(missed(gone, RUN), "missed")
    assert missed(gone, RUN)["detail"] == "too late"
    with pytest.raises(ValidationError):
        validate(missed(gone, RUN), "reject")


@pytest.mark.parametrize("command", list(Command))
def test_a_result_says_what_became_of_its_reject(command: Command) -> None:
    """The result, also from the records, carries the window, the command and why it was missed."""
    tracked = replace(
        verdict(3, Outcome.REJECT), encoder=5, reject=Reject(command=command, opens_ns=210 * MS, detail="why")
    )
    message = result(tracked, RUN)
    validate(message, "result")
    assert message["encoder"] == 5
    assert (message["reject"]["command"], message["reject"]["detail"]) == (command.value, "why")
    assert message["reject"]["opens_at"] == "2026-09-21T14:13:20.200000Z"


def test_answers_follow_their_schema() -> None:
    """Every kind of answer follows the schema of answers."""
    asked = AskResults(1, 9)
    validate(answer_results([result(verdict(seq), RUN) for seq in (2, 3, 6)], asked, RUN, complete_to=9), "answer")
    of_map = answer_map(3, np.zeros((4, 5), np.float32), RUN)
    validate(of_map, "answer")
    assert of_map["run"] == RUN
    validate(answer_error("no", RUN), "answer")


def test_an_answer_names_the_gaps() -> None:
    """Numbers without a record are named as ranges, at both ends and in the middle."""
    answer = answer_results([result(verdict(seq), RUN) for seq in (2, 3, 6)], AskResults(1, 9), RUN, complete_to=8)
    assert answer["missing"] == [[1, 1], [4, 5], [7, 8]]
    assert answer["more"] is True


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('{"ask": "results", "from_seq": 3, "to_seq": 9}', AskResults(3, 9)),
        ('{"ask": "status", "version": 1}', AskStatus()),
        ('{"ask": "map", "seq": 4}', AskMap(4)),
        (
            '{"ask": "challenge", "names": ["crack", "Beule"], "by": "M. Curie", "patience_s": 60}',
            AskChallenge(("crack", "Beule"), "M. Curie", 60),
        ),
    ],
)
def test_questions_are_understood(text: str, question: object) -> None:
    """Each kind of question is read, and follows its schema."""
    assert parse_question(text.encode()) == question
    Draft202012Validator(schema("question"), registry=REGISTRY).validate(json.loads(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"ask": "results"}', "from_seq and to_seq"),
        ('{"ask": "results", "from_seq": 9, "to_seq": 3}', "less than from_seq"),
        ('{"ask": "map", "seq": -1}', "sequence numbers"),
        ('{"ask": "map", "seq": true}', "sequence numbers"),
        ('{"ask": "map", "seq": NaN}', "not JSON"),
        ('{"ask": "shutdown"}', '"ask" must be'),
        ('{"ask": "status", "more": 1}', "no further field"),
        ('{"ask": "status", "version": 2}', "version 1"),
        ('{"ask": "status"' + " " * 5000 + "}", "at most"),
        ("[" * 4000, "not JSON"),
        ('{"ask": "challenge", "names": ["a"]}', "names, by and patience_s"),
        ('{"ask": "challenge", "names": [], "by": "x", "patience_s": 5}', "1 to 100 names"),
        ('{"ask": "challenge", "names": "ab", "by": "x", "patience_s": 5}', "1 to 100 names"),
        ('{"ask": "challenge", "names": ["a", "a"], "by": "x", "patience_s": 5}', "names must differ"),
        ('{"ask": "challenge", "names": [["a"]], "by": "x", "patience_s": 5}', "printable characters"),
        ('{"ask": "challenge", "names": ["a\\n"], "by": "x", "patience_s": 5}', "printable characters"),
        ('{"ask": "challenge", "names": ["a"], "by": "", "patience_s": 5}', "printable characters"),
        ('{"ask": "challenge", "names": ["a"], "by": "x", "patience_s": 0}', "from 1 to 86400"),
        ('{"ask": "challenge", "names": ["a"], "by": "x", "patience_s": 1.5}', "from 1 to 86400"),
    ],
)
def test_malformed_questions_are_refused_in_words(text: str, why: str) -> None:
    """A question that cannot be answered is refused with what is wrong."""
    with pytest.raises(WireError, match=why.replace('"', '"')):
        parse_question(text.encode())


def test_a_client_refuses_another_version() -> None:
    """A message of an unknown version or schema is not read as if it were known."""
    message = {**result(verdict(1), RUN), "version": 2}
    with pytest.raises(WireError, match="version 2"):
        from_bytes(to_bytes(message), "inspectd.result")
