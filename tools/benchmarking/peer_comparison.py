"""What `benchmark.py peers` is asked for -> the rows of peers.py, the times of peer_timing.py, and their page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import Progress

from benchmarking.peer_page import peer_page
from benchmarking.peer_timing import measure_times
from benchmarking.peers import FAILED, MEMORY, MODELS, PRODUCT, PeerSettings, measure_peers, sets_of, stations_of
from benchmarking.steps import Row
from engines.artifact import open_bundle, resolve_bundle
from inspectd.errors import UsageError


def compare(args: argparse.Namespace, command: str, bars: Progress) -> tuple[str, str]:
    """Measure what is asked for; returns the page, and in one line what failed, empty where nothing did.

    Raises what measure_peers and measure_times raise, and UsageError where there is no bundle to time.
    """
    sets = sets_of(args.data)
    settings = PeerSettings(
        size=args.size,
        parts=args.parts,
        coreset=args.coreset,
        seed=args.seed,
        weights=args.weights,
        memory_script=args.memory_script,
        stations=stations_of(args.station, sets),
        most_s=args.most_seconds,
        again=args.again,
    )
    models = args.model or [name for name in MODELS if name != MEMORY or args.memory_script is not None]
    work, rows, times = args.work.resolve(), [], []
    if args.time != "only":
        rows = measure_peers(sets, models, settings, out=args.out, work=work, bars=bars)
    if args.time is not None:
        data = next(iter(sets.values()))
        bundle = open_bundle(resolve_bundle(args.bundle or _bundle_of(rows, data, work)))
        times = measure_times(bundle, data, settings, args.time_seconds, out=args.out, work=work, bars=bars)
    return peer_page(rows, times, command), _failed(rows)


def _bundle_of(rows: Sequence[Row], data: Path, work: Path) -> Path:
    """The bundle of the product's row on the set."""
    made: Mapping[str, str] = {
        row["data"]: row["folder"] for row in rows if row["model"] == PRODUCT and "folder" in row
    }
    if data.name not in made:
        raise UsageError(f"--time: the product has no row on {data.name} in this run; name a bundle: --bundle DIR")
    return work / made[data.name]


def _failed(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if FAILED in row]
    return f"{len(failed)} of {len(rows)} rows failed; the first: {failed[0][FAILED]}" if failed else ""
