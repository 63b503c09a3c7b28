"""`inspectd demo`: the simulated line from good parts to verdicts, through the very commands that a station uses."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console

from engines.artifact import Bundle, activate
from inspectd.config import Station, load_station
from inspectd.demo.daemon import run_daemon
from inspectd.demo.sheet import draw_sheets
from inspectd.demo.summary import print_summary
from inspectd.errors import StorageError
from inspectd.loading import find_bundle

GOOD_SEED, LINE_SEED = 11, 12
MARK = ".inspectd-demo"

EPILOG = """\
example:
  inspectd demo                              ten minutes at most on two cores; then look into demo/
  inspectd demo --parts 2000 --out /tmp/demo
  inspectd demo --keep                       use the bundle of the last demo, only run the line again
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "demo",
        help="calibrate and run the simulated capacitor line, and draw what happened",
        description="Calibrate the simulated capacitor line from good parts, inspect a stream of good and defective "
        "parts at line rate with the real daemon, and say what it caught, what it missed, and how fast it was.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything it makes (demo)")
    parser.add_argument("--train", type=int, default=300, help="good parts to calibrate from (300)")
    parser.add_argument("--parts", type=int, default=1000, help="parts to inspect (1000)")
    parser.add_argument("--defects", type=float, default=0.4, help="share of defective parts among them (0.4)")
    parser.add_argument("--keep", action="store_true", help="use the bundle of the last demo")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; returns 0. Raises what its steps raise."""
    console = Console(stderr=True)
    out: Path = args.out
    _claim(out, keep=args.keep)
    learning = _station(out, seed=GOOD_SEED, pool=args.train, defect_share=0.0)
    line = _station(out, seed=LINE_SEED, pool=args.parts, defect_share=args.defects)
    started = time.monotonic()
    if not (args.keep and (out / "bundles" / line.station / "active").exists()):
        console.rule("1. calibrate from good parts")
        _calibrate(learning, out, args.train)
    console.rule("2. inspect")
    settings = out / "station.yaml"
    settings.write_text(yaml.safe_dump(line.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    shutil.rmtree(out / "records", ignore_errors=True)
    run_daemon(settings, line, args.parts, out / "daemon.log")
    console.rule("3. what happened")
    limits = find_bundle(line, None).thresholds
    print_summary(out / "records" / line.station, limits, seconds=time.monotonic() - started)
    for picture in draw_sheets(line, out):
        print(f"look at {picture}")
    print(f"report of the calibration: {out / 'bundles' / line.station / 'active' / 'report.html'}")
    return 0


def _claim(out: Path, *, keep: bool) -> None:
    """Take the folder; only a folder that an earlier demo made is emptied."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise StorageError(f"{out}: holds something that no demo made; name another folder with --out")
    try:
        if not keep and out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
    except OSError as error:
        raise StorageError(f"{out}: cannot be used: {error.strerror}") from error


def _station(out: Path, *, seed: int, pool: int, defect_share: float) -> Station:
    """The shipped station smdc, with its folders inside the demo's and another stretch of the simulated line."""
    settings = load_station("smdc").model_dump(mode="json")
    settings["camera"] = {"kind": "simulated", "seed": seed, "pool": pool, "defect_share": defect_share}
    settings["bundles"] = str(out / "bundles")
    for name in ("results", "queries"):
        settings["outputs"][name] = f"ipc://{out}/{name}.ipc"
    settings["records"] |= {"folder": str(out / "records"), "passed_image_every": 1}
    return Station.model_validate(settings)


def _calibrate(station: Station, out: Path, count: int) -> Bundle:
    from inspectd.commands.calibrate import calibrate_station, progress_bars
    from inspectd.commands.record import record_parts

    footage = out / "footage"
    record_parts(station, count, footage)
    with progress_bars() as progress:
        bundle = calibrate_station(station, footage, station.bundles, "quick", progress, work=out / "work")
    activate(station.bundles, station.station, bundle.hash)
    limits = bundle.thresholds
    print(
        f"bundle {bundle.short_hash}: expected false-reject rate {limits.expected_rate:.2%} "
        f"({limits.low:.2%} to {limits.high:.2%})",
        file=sys.stderr,
    )
    return bundle
