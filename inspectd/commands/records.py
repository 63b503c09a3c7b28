"""`inspectd records`: list what was recorded of each part, prove it, export it, copy it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator

from rich.table import Table

from inspectd.commands import records_export, records_snapshot, records_verify
from inspectd.commands.arguments import count
from inspectd.config import load_station
from inspectd.records.reading import RecordReader
from inspectd.records.rows import StoredPart
from inspectd.records.run_id import known_run
from inspectd.terminal import table_console
from inspectd.wire.public import result, to_bytes

EPILOG = """\
examples:
  inspectd records --station smdc                 the newest 20 parts
  inspectd records --station smdc --seq 100..200  these sequence numbers
  inspectd records --station smdc --last 1000 --json | jq .part_score
  inspectd records verify --station smdc          numbers without a gap, hashes and images as they were
  inspectd records export --station smdc --out smdc.parquet --from 2026-11-01 --to 2026-12-01
  inspectd records snapshot --station smdc --out copy.db   for SQLite clients that keep it open
"""
CHUNK = 1000


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "records",
        help="list, verify, export or copy what was recorded",
        description="List, verify, export or copy the records of a station; the daemon may be running.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("list", "verify", "export", "snapshot"),
        default="list",
        help="what to do (default: list); snapshot: copy the database, for programs that keep it open",
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=count, default=20, metavar="N", help="the newest N parts (default 20)")
    which.add_argument("--seq", type=_range, metavar="A..B", help="sequence numbers A to B, or one number")
    parser.add_argument("--json", action="store_true", help="list: one JSON object per line; verify: one object")
    records_verify.add_arguments(parser.add_argument_group("verify"))
    records_export.add_arguments(parser.add_argument_group("export, snapshot"))


def run(args: argparse.Namespace) -> int:
    """List, verify, export or copy; returns the exit code. Raises StorageError, SettingsError."""
    station = load_station(args.station)
    folder = station.records.folder / station.station
    if args.what == "verify":
        return records_verify.run(folder, args)
    if args.what == "export":
        return records_export.run(folder, station.station, args)
    if args.what == "snapshot":
        return records_snapshot.run(folder, args)
    with RecordReader(folder) as reader:
        parts = _between(reader, *args.seq) if args.seq else iter(reader.last(args.last))
        if args.json:
            _print_json(parts, known_run(folder))
        else:
            _print_table(parts)
    return 0


def _between(reader: RecordReader, first: int, last: int) -> Iterator[StoredPart]:
    while found := reader.between(first, last, CHUNK):
        yield from found
        first = found[-1].verdict.seq + 1


def _print_json(parts: Iterable[StoredPart], run: str) -> None:
    """The result message, and what only the records know. run: what the numbers belong to, empty where unknown."""
    for part in parts:
        pose = part.pose and {
            "x_px": part.pose.x_px,
            "y_px": part.pose.y_px,
            "angle_deg": part.pose.angle_deg,
            "scale": part.pose.scale,
        }
        late = part.late and {
            "part_score": part.late.part_score,
            "region_scores": dict(part.late.region_scores),
            "latency_ms": round((part.late.scored_ns - part.verdict.trigger_ns) / 1e6, 3),
        }
        more = {"pose": pose, "source": part.source, "image": part.image, "late_scores": late}
        sys.stdout.write(to_bytes({**result(part.verdict, run), **more}).decode() + "\n")


def _print_table(parts: Iterable[StoredPart]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("seq", "part", "time", "verdict", "score", "limit", "latency ms", "detail"):
        table.add_column(heading, justify="right" if heading in {"seq", "score", "limit", "latency ms"} else "left")
    for part in parts:
        message = result(part.verdict, run="")
        table.add_row(
            str(message["seq"]),
            message["part_id"],
            message["triggered_at"],
            message["verdict"],
            "" if message["part_score"] is None else f"{message['part_score']:.4g}",
            "" if message["thresholds"]["part"] is None else f"{message['thresholds']['part']:.4g}",
            f"{message['latency_ms']:.2f}",
            "" if message["verdict"] == "PASS" else message["detail"],
        )
    table_console().print(table)


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError("expected A..B or one number")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise argparse.ArgumentTypeError("the second number is less than the first")
    return first, last
