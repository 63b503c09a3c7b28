"""`inspectd records export`: the records of a span of time as a Parquet or CSV file."""

from __future__ import annotations

import argparse
from pathlib import Path

from inspectd.commands.arguments import LATEST_NS, moment_ns
from inspectd.errors import UsageError
from inspectd.records.export import export
from inspectd.records.reading import RecordReader
from inspectd.terminal import progress_bar


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare the options that only `export` takes, and --out, which `snapshot` takes, too."""
    group.add_argument("--out", type=Path, metavar="FILE", help="file to write: .parquet or .csv; snapshot: .db")
    group.add_argument(
        "--from", dest="since", type=moment_ns, metavar="TIME", help="export: parts triggered at or after this"
    )
    group.add_argument(
        "--to",
        dest="until",
        type=moment_ns,
        metavar="TIME",
        help="export: parts triggered before this (2026-11-22T06:00, UTC)",
    )


def run(folder: Path, station: str, args: argparse.Namespace) -> int:
    """Export; returns 0. Raises UsageError, StorageError."""
    if args.out is None:
        raise UsageError("export needs --out FILE.parquet (or .csv)")
    since_ns = -LATEST_NS if args.since is None else args.since
    until_ns = LATEST_NS if args.until is None else args.until
    if None not in (args.since, args.until) and until_ns <= since_ns:
        raise UsageError("--to is not after --from: there is nothing between them")
    with RecordReader(folder) as reader, progress_bar() as bar:
        task = bar.add_task("parts", total=reader.count_triggered(since_ns, until_ns))
        parts = reader.triggered(since_ns, until_ns)
        count = export(parts, args.out, station, lambda done: bar.advance(task, done))
    print(f"{args.out}: {count} parts")
    return 0
