"""One settings file -> plain values: small, without tags, aliases and doubled keys, and an error in one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from engines.errors import one_line
from inspectd.errors import SettingsError

MAX_BYTES = 1 << 16


class _PlainLoader(yaml.SafeLoader):
    """YAML without what settings do not need: aliases unfold without bound, tags reach into constructors."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        place = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(None, None, f"alias *{event.anchor}: write the values out", place)
        if getattr(event, "tag", None) is not None:
            raise ComposerError(None, None, f"tag {event.tag}: settings need none", place)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[Any, Any]:
    """Read a YAML file that holds a mapping. Raises SettingsError with one line."""
    try:
        raw = yaml.load(_read(path), _PlainLoader)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise SettingsError(f"{path}: not valid YAML: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {_place(error)}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number of too many digits
        raise SettingsError(f"{path}: not valid YAML: {one_line(str(error))}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected settings at the top level, found {type(raw).__name__}")
    return raw


def _place(error: yaml.MarkedYAMLError) -> str:
    """'line 2, column 4: while parsing a flow sequence, expected ...': as an editor counts."""
    mark = error.problem_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return place + one_line(", ".join(part for part in (error.context, error.problem) if part))


def _read(path: Path) -> str:
    """A regular file of a sensible size; a pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SettingsError(f"{path}: cannot be read: is no file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_BYTES // 1024} KiB, so no settings")
    return data.decode("utf-8")
