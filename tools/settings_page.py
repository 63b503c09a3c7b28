#!/usr/bin/env python3
"""Write docs/settings.md from the settings themselves, so that the page cannot disagree with the code."""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from inspectd.config import Station

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings of a station

One YAML file per station, looked for in `$INSPECTD_STATIONS`, `./stations`, `/etc/inspectd/stations`, then among the
shipped ones. Unknown settings are refused, all are checked before anything starts, and nothing changes while the daemon
runs. Written by `tools/settings_page.py` from the code.
"""


def page() -> str:
    """The whole page as Markdown."""
    lines = [INTRODUCTION]
    for title, model in _sections(Station, ""):
        lines += [f"## {title or 'station'}", "", (model.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
        for name, field in model.model_fields.items():
            if not list(_models(field.annotation)):
                lines.append(f"| `{name}` | {_values(field)} | {_default(field)} | {field.description or ''} |")
        lines.append("")
    return "\n".join(lines)


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Depth first: every settings class, with the path that leads to it; one of several kinds is named by its kind."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for each in inner:
            kind = each.model_fields.get("kind")
            suffix = f" ({', '.join(typing.get_args(kind.annotation))})" if kind and len(inner) > 1 else ""
            yield from _sections(each, f"{path}.{name}{suffix}".lstrip("."))


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The settings classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _values(field: FieldInfo) -> str:
    """What may be written there, in words."""
    bounds = []
    for constraint in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (limit := getattr(constraint, attribute, None)) is not None:
                bounds.append(f"{sign} {limit}")
    return ", ".join([_type(field.annotation), *bounds]).replace("|", "\\|")


def _type(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple:
        return "list of " + _type(arguments[0])
    names = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true, false",
        type(None): "nothing",
        Path: "path",
    }
    return names.get(annotation, str(annotation)) if isinstance(annotation, type) else str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return "none"
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`" if shown else "empty"


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example:\n  tools/settings_page.py --check")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page is out of date")
    if parser.parse_args().check:
        if PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"{PAGE}: out of date; run tools/settings_page.py", file=sys.stderr)
        return 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
