"""What a trigger message asks for: whatever can be read as a trigger is one, because a part stands there.

Readers append line ends and separators, some send numbers or nothing where the code could not be read. The part is
judged all the same: what was sent is kept beside the name that the part then has, and what had to be put right is said.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from inspectd.messages import Position

MAX_PART_ID: Final = 128
MAX_SENT_ID: Final = 1024
"""Characters of what was sent that are kept."""
MAX_AGE_MS: Final = 60_000
MAX_COUNT: Final = 1 << 53  # what every JSON reader takes for an exact integer
NS_PER_MS: Final = 1_000_000
KNOWN: Final = frozenset({"part_id", "encoder", "age_ms"})
OF_A_POSITION: Final = frozenset({"position", "age_ms"})


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a part: when it was due (monotonic clock), its name and the belt's count where they are known.

    age_ns: how old its sender says that it was when it was read. sent_id: what was sent as the part's name, where that
    is not its name. odd: what was put right, one word or two each.
    """

    due_ns: int
    part_id: str | None = None
    encoder: int | None = None
    age_ns: int = 0
    sent_id: str = ""
    odd: tuple[str, ...] = ()


def parse_message(parts: list[bytes], read_ns: int) -> Ask | Position:
    """A trigger {"part_id", "encoder", "age_ms"}, each optional, or a position {"position", "age_ms"}.

    read_ns: monotonic clock when the message was read. A trigger is never refused for what its fields hold; a position
    without a count says nothing. Raises ValueError, one line, for what is no JSON object and for such a position.
    """
    message = _object(parts)
    odd: list[str] = []
    age_ns = _age_ns(message.get("age_ms"), odd)
    at_ns = read_ns - age_ns
    if "position" in message:
        count = _count(message["position"], "position", odd)
        if count is None:
            raise ValueError('a position is {"position": count}, with age_ms or without')
        return Position(count=count, at_ns=at_ns)
    part_id, sent_id = _name(message.get("part_id"), odd)
    encoder = _count(message.get("encoder"), "encoder", odd)
    if set(message) - KNOWN:
        odd.append("unknown fields")
    return Ask(at_ns, part_id, encoder, age_ns, sent_id, tuple(odd))


def _object(parts: list[bytes]) -> dict[str, Any]:
    if len(parts) != 1:
        raise ValueError(f"expected one frame, got {len(parts)}")
    try:
        message = json.loads(parts[0])
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def _name(value: object, odd: list[str]) -> tuple[str | None, str]:
    """The part's name, None where what was sent cannot serve, and what was sent where that is something else."""
    if value is None:
        return None, ""
    sent = value if isinstance(value, str) else _as_text(value)
    name = _trimmed(sent)
    serves = 0 < len(name) <= MAX_PART_ID and name.isprintable()
    if not serves or name != value:
        odd.append("part_id")
    kept = "" if serves and name == sent else sent[:MAX_SENT_ID].encode("utf-8", "backslashreplace").decode()
    return (name if serves else None), kept


def _trimmed(text: str) -> str:
    """Without what readers put around a code: blanks of all kinds, line ends and other control characters."""
    start, end = 0, len(text)
    while start < end and not _shows(text[start]):
        start += 1
    while end > start and not _shows(text[end - 1]):
        end -= 1
    return text[start:end]


def _shows(character: str) -> bool:
    return character.isprintable() and not character.isspace()


def _as_text(value: object) -> str:
    """A number as people write it; anything else as JSON."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return type(value).__name__


def _count(value: object, name: str, odd: list[str]) -> int | None:
    """A whole number; others are rounded, and what is none, or beyond 2^53, is as if it had not been sent."""
    if value is None:
        return None
    if type(value) is int and abs(value) <= MAX_COUNT:
        return value
    odd.append(name)
    if isinstance(value, float) and math.isfinite(value) and abs(value) <= MAX_COUNT:
        return round(value)
    return None


def _age_ns(value: object, odd: list[str]) -> int:
    """From 0 to MAX_AGE_MS; what lies outside is the nearest of them, and what is no number is 0."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        odd.append("age_ms")
        return 0
    age_ms = min(max(value, 0), MAX_AGE_MS)
    if age_ms != value:
        odd.append("age_ms")
    return round(age_ms * NS_PER_MS)
