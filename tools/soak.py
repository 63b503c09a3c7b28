#!/usr/bin/env python3
"""Run the real daemon for a long time, with faults, and account for every part: was a promise broken?"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from soaking.bench import Ground, soak, sustained_rate
from soaking.report import Setting, as_json, markdown, promises, show

from inspectd.commands.arguments import MOST, count, number, seed, whole
from inspectd.config import load_station
from inspectd.errors import StorageError
from inspectd.exits import EXIT_PROMISE_BROKEN, run_program
from inspectd.loading import find_bundle
from inspectd.terminal import PlainConsole, progress_bar, table_console

LEAST_PARTS = 200
EPILOG = """\
examples:
  tools/soak.py --station smdc --parts 1000000 --seed 1              the highest rate that holds, faults as they come
  tools/soak.py --station smdc --parts 100000 --no-faults --load 0.8 --deadline-ms 50 --markdown
  tools/soak.py --station smdc --parts 50000 --no-faults --load 5 --deadline-ms 50
  tools/soak.py --station ./tiny.yaml --parts 3000 --rate 60 --seed 7 --fault-every 100 --json

The daemon runs on the simulated camera, with ports and records of its own in a temporary folder, under a stand-in for
systemd. What is announced is compared with what is recorded, part by part; the same seed makes the same faults happen
after as many parts. A million parts need some 300 MiB of disk and no more memory than a thousand.

exit codes: 0 every promise held, 14 one was broken (the table says which), others as in docs/exit_codes.md.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_program("soak", list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> int:
    args = _parser().parse_args(arguments)
    station = load_station(args.station)
    bundle = find_bundle(station, args.bundle)
    if args.deadline_ms is not None:
        line = station.line.model_copy(update={"deadline_ms": args.deadline_ms})
        station = station.model_copy(update={"line": line})
    with ExitStack() as stack:
        ground = Ground(station, bundle, _folder(stack, args.keep))
        tell = PlainConsole(stderr=True).print
        rate_hz = sustained_rate(ground, tell) if args.rate is None else args.rate
        setting = Setting(
            command=f"tools/soak.py {' '.join(arguments)}",
            station=station.station,
            deadline_ms=station.line.deadline_ms,
            rate_hz=rate_hz,
            rate_is_sustained=args.rate is None,
            load=args.load,
            faults=not args.no_faults,
        )
        bar = stack.enter_context(progress_bar(passing=False))
        task = bar.add_task("soaking", total=args.parts)
        observed = soak(
            ground,
            period_ms=setting.period_ms,
            parts=args.parts,
            seed=None if args.no_faults else args.seed,
            every=args.fault_every,
            progress=lambda done: bar.update(task, completed=done),
        )
    if args.json:
        print(json.dumps(as_json(setting, observed), indent=1))
    elif args.markdown:
        print(markdown(setting, observed))
    else:
        show(table_console(), setting, observed)
    return 0 if all(each.held for each in promises(setting, observed)) else EXIT_PROMISE_BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--station", default="smdc", help="station name, or path of its settings (smdc)")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    parser.add_argument("--parts", type=whole(LEAST_PARTS), required=True, metavar="N", help="verdicts to wait for")
    parser.add_argument("--seed", type=seed, default=1, metavar="S", help="of the faults (1)")
    parser.add_argument(
        "--rate", type=_rate, default=None, metavar="HZ|auto", help="parts a second; auto: find it (auto)"
    )
    parser.add_argument("--load", type=number(MOST), default=1.0, metavar="X", help="offer so many times the rate (1)")
    parser.add_argument("--deadline-ms", type=number(MOST), metavar="MS", help="instead of the station's")
    parser.add_argument("--no-faults", action="store_true", help="let nothing go wrong")
    parser.add_argument("--fault-every", type=count, default=500, metavar="N", help="parts between two faults (500)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write there, and leave it: records, settings")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print everything as JSON")
    shape.add_argument("--markdown", action="store_true", help="print tables as docs/reliability.md has them")
    return parser


def _folder(stack: ExitStack, keep: Path | None) -> Path:
    """A new folder: the one that is to be kept, or one that goes away in the end."""
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="inspectd-soak-")))
    try:
        keep.mkdir(parents=True)
    except FileExistsError as error:
        raise StorageError(f"{keep}: exists already; name a new folder") from error
    return keep.resolve()


def _rate(text: str) -> float | None:
    return None if text == "auto" else number(MOST)(text)


if __name__ == "__main__":
    sys.exit(main())
