"""`inspectd rollback`: make the bundle active that was active before."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.artifact import activate, active_bundle, rollback
from inspectd.config import load_station

EPILOG = """\
examples:
  inspectd rollback --station smdc                        one step back; again: a further step back
  inspectd rollback --station smdc --to 3f0a91c2d4e5b687  to a bundle that `inspectd bundles` lists
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "rollback",
        help="go back to the bundle that was active before",
        description="Go back to the bundle that was active before. A running daemon keeps its own until reloaded.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="name of a station, or path of its .yaml")
    parser.add_argument("--bundles", type=Path, help="folder of bundles (default: the station's setting)")
    parser.add_argument("--to", metavar="HASH", help="activate this bundle instead, forwards or backwards")


def run(args: argparse.Namespace) -> int:
    """Verify the bundle, then switch to it atomically; returns 0. Raises BundleError."""
    station = load_station(args.station)
    root = args.bundles or station.bundles
    if args.to:
        before = active_bundle(root, station.station).name
        after = activate(root, station.station, args.to).name
    else:
        before, after = rollback(root, station.station)
    reload = f"systemctl reload inspectd@{station.station}"
    print(f"station {station.station}: bundle {before} -> {after}; to inspect with it: {reload}")
    return 0
