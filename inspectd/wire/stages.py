"""Messages <-> multipart between the stages: one JSON header, then each array's own memory, not copied.

A header is {"type", "version", "fields", "shapes", "dtypes"}. JSON knows no NaN: a number that is not finite travels as
null and comes back as NaN, which `decide` never lets pass.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspectd.messages import (
    Fault,
    Frame,
    LateScores,
    Pose,
    Position,
    Record,
    Reject,
    Scores,
    Shed,
    StoredImage,
    Thresholds,
    ToldReject,
    Trigger,
    Verdict,
)
from inspectd.wire.errors import WireError

VERSION = 1
MAX_HEADER_BYTES = 1 << 16
MAX_ARRAY_BYTES = 1 << 28
MAX_TEXT = 4096
MAX_DIMENSIONS = 3

Buffer = bytes | memoryview
Message = Trigger | Shed | Position | Frame | Scores | Fault | Record | LateScores | StoredImage | ToldReject
Named = tuple[tuple[str, float], ...]
_NESTED = (Pose, Thresholds, Reject, Verdict, Trigger)


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field travels: `pack` to a JSON value; `unpack` from one; arrays travel beside the header.

    dtypes: those that an array may have, empty for other fields.
    """

    name: str
    dtypes: tuple[np.dtype[Any], ...]
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def encode(message: Message) -> list[Buffer]:
    """Return [header, array, ...]; the arrays are the message's own memory (copied only where not C-contiguous)."""
    plan = _PLANS[type(message).__name__][1]
    values: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    arrays: list[Buffer] = []
    for field in plan:
        value = getattr(message, field.name)
        if not field.dtypes:
            values[field.name] = field.pack(value)
        elif value is not None:
            dtype = value.dtype if value.dtype in field.dtypes else field.dtypes[0]
            shapes[field.name], dtypes[field.name] = value.shape, dtype.name
            arrays.append(np.ascontiguousarray(value, dtype=dtype).data)
    header = {
        "type": type(message).__name__,
        "version": VERSION,
        "fields": values,
        "shapes": shapes,
        "dtypes": dtypes,
    }
    return [json.dumps(header, allow_nan=False, separators=(",", ":")).encode(), *arrays]


def decode(parts: Sequence[bytes | memoryview]) -> Message:
    """Read what `encode` wrote; arrays are read-only views of the given memory. Raises WireError."""
    if not parts or len(parts[0]) > MAX_HEADER_BYTES:
        raise WireError("stage message without a header, or with one that is too long")
    try:
        header = json.loads(bytes(parts[0]))
        kind, version, values, shapes = header["type"], header["version"], header["fields"], header["shapes"]
        dtypes = header["dtypes"]
        made, plan = _PLANS[kind]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"not a stage message: {error!r}") from error
    if version != VERSION:
        raise WireError(f"{kind}: version {version!r} is not {VERSION}")
    plain = [field for field in plan if not field.dtypes]
    if not isinstance(values, dict) or values.keys() != {field.name for field in plain}:
        raise WireError(f"{kind}: its fields are not those of version {VERSION}")
    found = {field.name: _checked(field, values[field.name], kind) for field in plain}
    return typing.cast(Message, made(**found, **_arrays(kind, plan, shapes, dtypes, parts[1:])))


def _checked(field: _Field, value: object, kind: str) -> object:
    try:
        return field.unpack(value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"{kind}.{field.name}: {error}") from error


def _arrays(
    kind: str, plan: Sequence[_Field], shapes: object, dtypes: object, buffers: Sequence[bytes | memoryview]
) -> dict[str, NDArray[Any]]:
    if not isinstance(shapes, dict) or not isinstance(dtypes, dict) or len(shapes) != len(buffers):
        raise WireError(f"{kind}: the number of arrays is not the one in its header")
    allowed = {(field.name, dtype.name): dtype for field in plan for dtype in field.dtypes}
    arrays: dict[str, NDArray[Any]] = {}
    for (name, shape), buffer in zip(shapes.items(), buffers, strict=True):
        dtype = allowed.get((name, str(dtypes.get(name))))
        if dtype is None or not _is_shape(shape):
            raise WireError(f"{kind}.{name}: not an array of this message, or its shape is not valid")
        size = math.prod(shape) * dtype.itemsize
        if size != len(buffer) or size > MAX_ARRAY_BYTES:
            raise WireError(f"{kind}.{name}: {len(buffer)} bytes for shape {shape}")
        array = np.frombuffer(buffer, dtype).reshape(shape)
        array.setflags(write=False)  # the camera may show the same memory again
        arrays[name] = array
    return arrays


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and 0 < len(shape) <= MAX_DIMENSIONS
        and all(type(side) is int and 0 < side < 1 << 16 for side in shape)
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _to_number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _to_int(value: object) -> int:
    if type(value) is not int or abs(value) >= 1 << 63:
        raise TypeError(f"{value!r} is not a 64-bit integer")
    return value


def _to_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true or false")
    return value


def _to_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise TypeError(f"not a text of at most {MAX_TEXT} characters")
    return value


def _named(pairs: Named) -> list[list[object]]:
    return [[name, _number(value)] for name, value in pairs]


def _to_named(value: object) -> Named:
    if not isinstance(value, list):
        raise TypeError("not a list of [name, number]")
    return tuple((_to_text(name), _to_number(number)) for name, number in value)


def _optional(
    pack: Callable[[Any], Any], unpack: Callable[[Any], Any]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return (
        lambda value: None if value is None else pack(value),
        lambda value: None if value is None else unpack(value),
    )


def _several(
    pack: Callable[[Any], Any], unpack: Callable[[Any], Any]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """(pack, unpack) for a tuple of any length."""

    def unpack_all(value: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError("not a list")
        return tuple(unpack(each) for each in value)

    return lambda value: [pack(each) for each in value], unpack_all


def _nested(made: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    plan = _plan(made)

    def unpack(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {field.name for field in plan}:
            raise TypeError(f"not a {made.__name__}")
        return made(**{field.name: field.unpack(value[field.name]) for field in plan})

    return lambda value: {field.name: field.pack(getattr(value, field.name)) for field in plan}, unpack


def _travel(kind: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """(pack, unpack) for a field's type."""
    simple: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        str: (_to_text, _to_text),
        int: (int, _to_int),
        float: (_number, _to_number),
        bool: (bool, _to_bool),
        Named: (_named, _to_named),
    }
    if kind in simple:
        return simple[kind]
    if typing.get_origin(kind) is tuple:
        return _several(*_travel(typing.get_args(kind)[0]))
    if typing.get_origin(kind) in (UnionType, typing.Union):
        (inner,) = (argument for argument in typing.get_args(kind) if argument is not NoneType)
        return _optional(*_travel(inner))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return str, kind
    if kind in _NESTED:
        return _nested(kind)
    raise TypeError(f"no way to send a {kind}")


def _plan(made: type) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(made)
    plan = []
    for field in fields(made):
        dtypes = _dtypes(hints[field.name])
        pack, unpack = (None, None) if dtypes else _travel(hints[field.name])
        plan.append(_Field(field.name, dtypes, pack, unpack))  # type: ignore[arg-type]
    return tuple(plan)


def _dtypes(kind: Any) -> tuple[np.dtype[Any], ...]:
    """The dtypes of an array field (`NDArray[...]`, several with `|`, possibly `| None`), else none."""
    found: list[np.dtype[Any]] = []
    for candidate in (kind, *typing.get_args(kind)):
        if typing.get_origin(candidate) is np.ndarray:
            (scalar,) = typing.get_args(typing.get_args(candidate)[1])
            found.append(np.dtype(scalar))
    return tuple(found)


_PLANS: dict[str, tuple[type, tuple[_Field, ...]]] = {
    made.__name__: (made, _plan(made))
    for made in (Trigger, Shed, Position, Frame, Scores, Fault, Record, LateScores, StoredImage, ToldReject)
}
