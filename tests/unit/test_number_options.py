"""Numbers and dates on command lines: what no command can use is wrong usage, never an internal error."""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import math
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from line_values import settings, verdict

from inspectd.__main__ import COMMANDS, main
from inspectd.commands.arguments import MOST, count, moment_ns, number, share, whole
from inspectd.messages import Record
from inspectd.records.ledger import Ledger

ROOT = Path(__file__).parents[2]
HOSTILE = (
    *("", " ", "-1", "0", "1e400", "-1e400", "inf", "-inf", "nan", "1e308", "0x10", "1_0", "9" * 19, "9" * 30),
    *("9" * 5000, "9999-12-31", "9999-12-31T23:59:59.999999-14:00", "0001-01-01T00:00+14:00", "2026-02-30", "\u0661"),
)
INTERNAL = ROOT / "tools" / "benchmarking" / "peer_worker.py"  # called by tools/benchmark.py alone
DAY_NS = 86_400 * 1_000_000_000
WALL_NS = 1_790_000_000_000_000_000


def options(command: str) -> list[argparse.Action]:
    """The options of a sub-command that are read by a function of their own."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    importlib.import_module(f"inspectd.commands.{COMMANDS[command].module}").add_parser(subparsers)
    (added,) = subparsers.choices.values()
    return [action for action in added._actions if action.type not in (None, Path, str)]


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("text", HOSTILE)
def test_an_option_takes_a_number_that_can_be_used_or_refuses_it(command: str, text: str) -> None:
    """Whatever is given: a finite number of 64 bits, or one of the two errors that argparse makes wrong usage of."""
    for option in options(command):
        assert callable(option.type)
        try:
            found = option.type(text)
        except (argparse.ArgumentTypeError, ValueError):
            continue
        for value in found if isinstance(found, tuple) else (found,):
            if isinstance(value, int | float):
                assert math.isfinite(value)
                assert abs(value) < 1 << 63, option.dest


@pytest.mark.parametrize("folder", ["inspectd/commands", "tools"])
def test_no_option_is_read_by_int_or_float_alone(folder: str) -> None:
    """They take any number at all: each option says from where to where it goes."""
    bare = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if path != INTERNAL and is_call and node.func.attr == "add_argument":
                bare += [
                    f"{path.name}:{node.lineno}"
                    for keyword in node.keywords
                    if keyword.arg == "type" and isinstance(keyword.value, ast.Name)
                    if keyword.value.id in ("int", "float")
                ]
    assert bare == []


def test_the_types_say_their_bounds() -> None:
    """What is inside comes through; what is outside is refused with the bounds."""
    assert (count("1"), count(str(MOST)), whole(0, 5)("0")) == (1, MOST, 0)
    assert (number(60)("0.5"), share("0"), share("1")) == (0.5, 0.0, 1.0)
    for refused, bounds in (
        (lambda: count("0"), "at least 1"),
        (lambda: count(str(MOST + 1)), f"at most {MOST}"),
        (lambda: whole(20, 50)("51"), "at most 50"),
        (lambda: number(60)("inf"), "more than 0, at most 60"),
        (lambda: number(60)("nan"), "more than 0, at most 60"),
        (lambda: share("1.01"), "from 0 to 1"),
        (lambda: share("nan"), "from 0 to 1"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=bounds):
            refused()


def test_a_moment_is_exact_and_beyond_all_records_the_end_of_time() -> None:
    """Microseconds count; UTC where no zone is named; what 64 bits of nanoseconds cannot hold is their end."""
    assert moment_ns("1970-01-01T00:00:01.000001") == 1_000_001_000
    assert moment_ns("1970-01-01T01:00+01:00") == 0
    assert moment_ns("9999-12-31") == (1 << 63) - 1
    assert moment_ns("0001-01-01T00:00+14:00") == -(1 << 63) + 1


@pytest.mark.parametrize(
    ("span", "seqs"),
    [
        (["--to", "9999-12-31"], ["1", "2"]),
        (["--from", "0001-01-01"], ["1", "2"]),
        (["--from", "9999-12-31T23:59:59.999999-14:00"], []),
        (["--to", "1970-01-01"], []),
        (["--from", "2026-09-22", "--to", "9999-12-31T23:59:59Z"], ["2"]),
    ],
)
def test_an_export_takes_any_date(tmp_path: Path, span: list[str], seqs: list[str]) -> None:
    """A date beyond what the records can hold means all of them, or none."""
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    with closing(Ledger(tmp_path / "records" / "test")) as ledger:
        ledger.write([Record(verdict=verdict(seq, wall_ns=WALL_NS + (seq - 1) * DAY_NS)) for seq in (1, 2)])
    out = tmp_path / "out.csv"
    assert main(["records", "export", "--station", str(path), "--out", str(out), *span]) == 0
    with out.open(newline="") as file:
        assert [row["seq"] for row in csv.DictReader(file)] == seqs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["health", "--station", "smdc", "--timeout", "inf"], "at most 86400"),
        (["health", "--station", "smdc", "--timeout", "nan"], "more than 0"),
        (["health", "--station", "smdc", "--timeout", "-1"], "more than 0"),
        (["records", "--station", "smdc", "--last", "9" * 30], "at most"),
        (["records", "--station", "smdc", "--last", "-5"], "at least 1"),
        (["run", "--station", "smdc", "--max-parts", "9" * 5000], "whole number"),
        (["challenge", "--station", "smdc", "--parts", "1", "--timeout", "86401"], "at most 86400"),
        (["demo", "--train", "20000"], "at most 10000"),
        (["demo", "--train", "19"], "at least 20"),
        (["demo", "--parts", "0"], "at least 1"),
        (["demo", "--defects", "nan"], "from 0 to 1"),
        (["demo", "--out", "a" * 120], "cannot lie there"),
        (["demo", "--out", "a b"], "cannot lie there"),
        (
            ["records", "export", "--station", "smdc", "--out", "x.csv", "--from", "2026-02-02", "--to", "2026-02-01"],
            "--to is not after --from",
        ),
    ],
)
def test_what_cannot_be_used_is_wrong_usage(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, and what would do; nothing is written."""
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
