"""`inspectd bundles`: which bundles a station has, what each promises, and which one is active."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from engines.artifact import BundleSummary, list_bundles
from inspectd.config import load_station
from inspectd.terminal import table_console

EPILOG = """\
examples:
  inspectd bundles --station smdc
  inspectd bundles --station smdc --json | jq '.[] | select(.active)'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "bundles",
        help="list a station's bundles",
        description="List a station's bundles, oldest first; the active one is marked.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="name of a station, or path of its .yaml")
    parser.add_argument("--bundles", type=Path, help="folder of bundles (default: the station's setting)")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")


def run(args: argparse.Namespace) -> int:
    """List; returns 0, also for a station without bundles."""
    station = load_station(args.station)
    root = args.bundles or station.bundles
    found = list_bundles(root, station.station)
    if args.json:
        print(json.dumps([_row(summary) for summary in found], indent=1))
    elif not found:
        print(f"{root / station.station}: no bundles yet; run `inspectd calibrate --station {args.station}`")
    else:
        table_console().print(_table(found))
    return 0


def _row(summary: BundleSummary) -> dict[str, object]:
    manifest = summary.manifest
    head: dict[str, object] = {"bundle": summary.short_hash, "active": summary.active, "folder": str(summary.folder)}
    if manifest is None:
        return {**head, "fault": summary.fault}
    return {
        **head,
        "created": manifest.created.isoformat(timespec="seconds"),
        "preset": manifest.preset,
        "good_parts": manifest.data.count,
        "precision": manifest.engine.precision,
        "asked_rate": manifest.thresholds.asked_rate,
        "expected_rate": manifest.thresholds.expected_rate,
        "low": manifest.thresholds.low,
        "high": manifest.thresholds.high,
    }


def _table(found: list[BundleSummary]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "bundle", "created", "preset", "good parts", "engine", "false rejects promised"):
        table.add_column(name, no_wrap=name == "bundle", justify="right" if name == "good parts" else "left")
    for summary in found:
        mark, manifest = "active" if summary.active else "", summary.manifest
        if manifest is None:
            table.add_row(mark, summary.short_hash, Text(summary.fault, style="red"))
            continue
        limits = manifest.thresholds
        promise = f"{limits.expected_rate:.2%} ({limits.low:.2%} to {limits.high:.2%}; asked {limits.asked_rate:.2%})"
        created = manifest.created.astimezone().strftime("%Y-%m-%d %H:%M")
        engine = f"{manifest.engine.runtime} {manifest.engine.precision}"
        table.add_row(mark, summary.short_hash, created, manifest.preset, str(manifest.data.count), engine, promise)
    return table
