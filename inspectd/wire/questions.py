"""What those outside ask the daemon, and its answers; JSON as in `public`, each with a schema beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspectd.wire.errors import WireError
from inspectd.wire.public import VERSION, Json, head, read_object

MAX_QUESTION_BYTES = 4096
MAX_SEQ = 1 << 62
MAX_CHALLENGE_PARTS = 100
MAX_NAME = 64
MAX_PATIENCE_S = 86_400


@dataclass(frozen=True, slots=True)
class AskResults:
    """Which results are wanted: from_seq <= seq <= to_seq."""

    from_seq: int
    to_seq: int


@dataclass(frozen=True, slots=True)
class AskStatus:
    """How is the daemon?"""


@dataclass(frozen=True, slots=True)
class AskMap:
    """The anomaly map of one recent part."""

    seq: int


@dataclass(frozen=True, slots=True)
class AskChallenge:
    """The next parts are these known-bad ones; by: who says so; patience_s: how long they may take."""

    names: tuple[str, ...]
    by: str
    patience_s: int


Question = AskResults | AskStatus | AskMap | AskChallenge


def parse_question(data: bytes) -> Question:
    """Read {"ask": "results", "from_seq", "to_seq"}, {"ask": "status"}, {"ask": "map", "seq"} or {"ask": "challenge",
    "names", "by", "patience_s"}. Raises WireError."""
    if len(data) > MAX_QUESTION_BYTES:
        raise WireError(f"a question has at most {MAX_QUESTION_BYTES} bytes, this one {len(data)}")
    asked = read_object(data)
    if asked.pop("version", VERSION) != VERSION:
        raise WireError(f"this daemon answers version {VERSION}")
    kind = asked.pop("ask", None)
    if kind == "challenge":
        return _challenge(asked)
    fields = {"results": ("from_seq", "to_seq"), "status": (), "map": ("seq",)}.get(
        kind if isinstance(kind, str) else ""
    )
    if fields is None:
        raise WireError('"ask" must be "results", "status", "map" or "challenge"')
    if asked.keys() != set(fields):
        raise WireError(f'"{kind}" takes {" and ".join(fields) or "no further field"}')
    numbers = [asked[name] for name in fields]
    if any(type(number) is not int or not 0 <= number <= MAX_SEQ for number in numbers):
        raise WireError(f"{' and '.join(fields)} must be sequence numbers")
    if kind == "status":
        return AskStatus()
    if kind == "map":
        return AskMap(numbers[0])
    if numbers[1] < numbers[0]:
        raise WireError("to_seq is less than from_seq")
    return AskResults(numbers[0], numbers[1])


def answer_results(results: Sequence[Json], question: AskResults, run: str, *, complete_to: int) -> Json:
    """Results from the records. `complete_to`: the last number that was looked at; ask on from the one after it."""
    found = {message["seq"] for message in results}
    gaps: list[list[int]] = []
    expected = question.from_seq
    for seq in [*sorted(found), complete_to + 1]:
        if seq > expected:
            gaps.append([expected, seq - 1])
        expected = seq + 1
    return {
        **head("inspectd.answer", run),
        "answer": "results",
        "results": list(results),
        "missing": gaps,
        "complete_to": complete_to,
        "more": complete_to < question.to_seq,
    }


def answer_status(health: Json) -> Json:
    """The heartbeat's content, on request."""
    return {**head("inspectd.answer", health["run"]), "answer": "status", "status": health}


def answer_map(seq: int, anomaly_map: NDArray[np.float32], run: str) -> Json:
    """Goes before the map's own memory: row-major, little-endian float32."""
    about = {"seq": seq, "shape": list(anomaly_map.shape), "dtype": "<f4"}
    return {**head("inspectd.answer", run), "answer": "map", **about}


def answer_challenge(first_seq: int, last_seq: int, run: str) -> Json:
    """A challenge has begun: its parts are those with these numbers."""
    return {**head("inspectd.answer", run), "answer": "challenge", "first_seq": first_seq, "last_seq": last_seq}


def answer_error(error: str, run: str) -> Json:
    """Why a question was not answered."""
    return {**head("inspectd.answer", run), "answer": "error", "error": error}


def _challenge(asked: Json) -> AskChallenge:
    if asked.keys() != {"names", "by", "patience_s"}:
        raise WireError('"challenge" takes names, by and patience_s')
    names, by, patience_s = asked["names"], asked["by"], asked["patience_s"]
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_CHALLENGE_PARTS:
        raise WireError(f"names must be a list of 1 to {MAX_CHALLENGE_PARTS} names")
    for text in (*names, by):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME or not text.isprintable():
            raise WireError(f"names, and who challenges, have 1 to {MAX_NAME} printable characters")
    if len(set(names)) != len(names):
        raise WireError("names must differ")
    if type(patience_s) is not int or not 1 <= patience_s <= MAX_PATIENCE_S:
        raise WireError(f"patience_s must be a whole number from 1 to {MAX_PATIENCE_S}")
    return AskChallenge(tuple(names), by, patience_s)
