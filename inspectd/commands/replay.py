"""`inspectd replay`: recorded footage through a station's line again, what the verdicts are now, and which changed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2

from inspectd.commands.arguments import count
from inspectd.config import Station, load_station
from inspectd.errors import UsageError
from inspectd.exits import EXIT_CHANGED
from inspectd.loading import find_bundle, load_engine, locate_part
from inspectd.locate import Locator
from inspectd.records.reading import RecordReader
from inspectd.replay.compare import Comparison, against_records, between
from inspectd.replay.footage import Footage
from inspectd.replay.line import ReplayLine, replay
from inspectd.replay.report import Run, comparison_json, print_comparison, print_run, run_json, write_csv
from inspectd.terminal import PlainConsole, progress_bar

EPILOG = """\
FOOTAGE is a folder of images, a labelled set in MVTec layout, a video, a folder of `inspectd record`, or the records
of a daemon (records/<station>; parts whose image was kept).

examples:
  inspectd replay footage/smdc --station smdc                        what the active bundle says of these parts
  inspectd replay records/smdc --station smdc --against records/smdc/records.db
                                                                     does it still say what it said on the line?
  inspectd replay parts.avi --station smdc --bundle out --json       with another bundle, as one JSON document
  inspectd replay sets/smdc --station smdc --bundle bundles/smdc/4ada5c9ba694e0d5 --bundle bundles/smdc/91c0ffee12345678
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "replay",
        help="run recorded footage through the station's line again",
        description="Run recorded footage through a station's line again: what the verdicts are now, and which of them "
        "changed against the records, or between two bundles. Exit code 11 where some have changed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("footage", type=Path, metavar="FOOTAGE", help="folder, video, labelled set or records")
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument(
        "--bundle", type=Path, action="append", help="a bundle's folder (default: the active one); twice: compare"
    )
    parser.add_argument("--against", type=Path, metavar="DB", help="records.db to compare with: which verdicts changed")
    parser.add_argument("--max-parts", type=count, metavar="N", help="only the first N parts")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row for each part (and bundle)")


def run(args: argparse.Namespace) -> int:
    """Replay; returns 0, or EXIT_CHANGED where verdicts changed.

    Raises BundleError, CameraError, EngineUnavailable, ParityError, SettingsError, StorageError, UsageError.
    """
    if args.bundle is not None and len(args.bundle) > 2:
        raise UsageError("--bundle: at most two can be compared")
    if args.bundle is not None and len(args.bundle) == 2 and args.against is not None:
        raise UsageError("--against compares one bundle with the records: give one --bundle")
    station = load_station(args.station)
    cv2.setNumThreads(1)  # as the daemon runs, so that nothing differs
    footage = Footage(args.footage)
    runs = _replay(station, footage, args.bundle or [None], args.max_parts)
    recorded = None
    if args.against is not None:
        with RecordReader(args.against) as reader:
            recorded = against_records(runs[0].parts, reader.all())
    versus = between(runs[0].parts, runs[1].parts) if len(runs) == 2 else None
    if args.csv is not None:
        write_csv(args.csv, runs)
    if args.json:
        document = {
            "station": station.station,
            "footage": str(footage.path),
            "without_image": footage.left_out,
            "runs": [run_json(run) for run in runs],
            "against": recorded and comparison_json(recorded),
            "between": versus and comparison_json(versus),
        }
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _print(footage, runs, recorded, versus)
    differs = any(comparison is not None and comparison.changed for comparison in (recorded, versus))
    return EXIT_CHANGED if differs else 0


def _print(footage: Footage, runs: Sequence[Run], recorded: Comparison | None, versus: Comparison | None) -> None:
    console = PlainConsole(soft_wrap=not sys.stdout.isatty())
    if footage.left_out:
        console.print(f"{footage.left_out} recorded parts are left out: no image of them was kept")
    for run in runs:
        print_run(console, run, f"{footage.about} {footage.path}")
    if recorded is not None:
        print_comparison(console, recorded, "the records", "this replay")
    if versus is not None:
        print_comparison(console, versus, runs[0].bundle_hash[:16], runs[1].bundle_hash[:16])


def _replay(station: Station, footage: Footage, bundles: Sequence[Path | None], max_parts: int | None) -> list[Run]:
    """Load each bundle as the daemon does, golden check included, and run the footage through all of them."""
    with ExitStack() as stack:
        lines = []
        for path in bundles:
            engine = load_engine(station, find_bundle(station, path))
            stack.callback(engine.runtime.close)
            locate = locate_part(Locator(station.locate, station.canvas))
            lines.append(
                ReplayLine(station.station, engine=engine, locate=locate, invalid_action=station.line.invalid_action)
            )
        bar = stack.enter_context(progress_bar())
        total = footage.parts if footage.parts is None or max_parts is None else min(footage.parts, max_parts)
        task = bar.add_task("inspecting", total=total)
        results = replay(footage, lines, max_parts=max_parts, progress=lambda done: bar.update(task, completed=done))
    return [Run(line.bundle_hash, line.engine, parts) for line, parts in zip(lines, results, strict=True)]
