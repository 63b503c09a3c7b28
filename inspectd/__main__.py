"""The command line: which sub-command, and the exit code that every error ends with (docs/exit_codes.md)."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

from inspectd.exits import run_program

EPILOG = """\
a first tour, without a camera:
  inspectd demo                              calibrate and run the simulated capacitor line
a station from a folder of good pictures:
  inspectd calibrate --data photos/nuts      choose a station, write nuts.yaml, and learn from them
a station from nothing:
  inspectd record --station smdc --count 300 save good parts from the station's camera
  inspectd calibrate --station smdc          learn from them, write and activate a bundle
  inspectd check --station smdc              say in one line what is wrong, if anything
  inspectd run --station smdc                inspect
  inspectd watch --station smdc              follow the verdicts

exit codes: 0 done, 1 internal error, 2 wrong usage, 3 settings, 4 bundle, 5 data or weights, 6 camera, 7 port,
8 storage, 9 engine, 10 not healthy, 11 verdicts changed (inspectd replay), 12 degraded, 13 no answer,
15 records not proved, 17 a known-bad part was not rejected, 18 the station's daemon runs,
130 interrupted. See docs/exit_codes.md.
"""


class Command(NamedTuple):
    """One sub-command: the module with `add_parser` and `run`, and its line in the help."""

    module: str
    summary: str


class CommandModule(Protocol):
    """What a module in `inspectd.commands` offers."""

    def add_parser(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Declare the sub-command."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


COMMANDS = {
    "demo": Command("demo", "calibrate and run the simulated capacitor line, and draw what happened"),
    "record": Command("record", "save good parts from the station's camera"),
    "calibrate": Command("calibrate", "learn from good parts; write and activate a bundle"),
    "bundles": Command("bundles", "list a station's bundles"),
    "build": Command("build", "build the bundle's TensorRT engine for this machine's GPU"),
    "rollback": Command("rollback", "go back to the bundle that was active before"),
    "check": Command("check", "validate settings, bundle and camera"),
    "run": Command("run", "inspect: the daemon, in the foreground"),
    "watch": Command("watch", "follow the verdicts in a terminal"),
    "keys": Command("keys", "keys of the daemon and of its clients"),
    "health": Command("health", "ask a running daemon whether it is healthy"),
    "challenge": Command("challenge", "prove that known-bad parts are rejected"),
    "records": Command("records", "list, verify, export or copy what was recorded"),
    "replay": Command("replay", "run recorded footage through the station's line again"),
    "evaluate": Command("evaluate", "measure a bundle on a labelled data set"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code; errors become one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program("inspectd", arguments, _dispatch)


def _dispatch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="inspectd",
        description="Inline visual inspection that learns from good parts only.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"inspectd {importlib.metadata.version('inspectd')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    module: CommandModule | None = None
    for name, command in COMMANDS.items():
        if name == named:
            module = cast(CommandModule, importlib.import_module(f"inspectd.commands.{command.module}"))
            module.add_parser(subparsers)
        else:  # its module stays unloaded: `inspectd run` must not pay for the imports of `inspectd calibrate`
            subparsers.add_parser(name, help=command.summary)
    args = parser.parse_args(arguments)
    if module is None:
        parser.error("name a command")
    return module.run(args)


if __name__ == "__main__":
    sys.exit(main())
