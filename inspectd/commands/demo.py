"""`inspectd demo`: the simulated line from good parts to verdicts, through the very commands that a station uses."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from engines.artifact import INSTANT, activate
from inspectd.commands.arguments import share, whole
from inspectd.commands.record import METADATA_NAME, record_parts
from inspectd.config import Station, load_station
from inspectd.demo.daemon import Daemon, run_daemon
from inspectd.demo.rehearsal import rehearsed
from inspectd.demo.sheet import draw_sheets
from inspectd.demo.summary import outcomes, print_summary, without_time
from inspectd.errors import InspectdError, StorageError, UsageError
from inspectd.loading import find_bundle, load_engine
from inspectd.pace import Pace, engine_times, held
from inspectd.terminal import PlainConsole
from inspectd.wire.public import Json

GOOD_SEED, LINE_SEED = 11, 12
FIRST_PARTS = 20
MOST_DRAWN = 10_000  # parts that the simulated camera renders ahead
"""Good parts that the first bundle is made of."""
LEARNING_PERIOD_MS = 100.0
BEHIND = 10
"""The niceness of a calibration beside a line."""
REHEARSED_PARTS = 150
MARK = ".inspectd-demo"


class CalibrationFailed(InspectdError):
    """The calibration's process ended with an error, which it told; the exit code is its own."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the calibration ended with code {exit_code}, as it says above")
        self.exit_code = exit_code


EPILOG = """\
example:
  inspectd demo                              a few minutes on two cores; then look into demo/
  inspectd demo --parts 2000 --out /tmp/demo
  inspectd demo --keep                       use the bundle of the last demo, only run the line again
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "demo",
        help="calibrate and run the simulated capacitor line, and draw what happened",
        description="Record good parts of the simulated capacitor line, and make a first bundle of twenty in seconds. "
        "While it gives verdicts, calibrate from all parts; the line takes the new bundle between two parts. Then "
        "inspect a stream of good and defective parts with the real daemon, as fast as this machine holds, and say "
        "what it caught, what it missed, and how fast it was.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything it makes (demo)")
    parser.add_argument(
        "--train", type=whole(FIRST_PARTS, MOST_DRAWN), default=300, help="good parts to calibrate from (300)"
    )
    parser.add_argument("--parts", type=whole(1, MOST_DRAWN), default=1000, help="parts to inspect (1000)")
    parser.add_argument("--defects", type=share, default=0.4, help="share of defective parts among them (0.4)")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="use the bundle of the last demo; calibrate first if only the first one is there",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; returns 0. Raises what its steps raise."""
    console = PlainConsole(stderr=True)
    out: Path = args.out
    learning = _station(out, seed=GOOD_SEED, pool=args.train, defect_share=0.0)
    line = _station(out, seed=LINE_SEED, pool=args.parts, defect_share=args.defects)
    _claim(out, keep=args.keep)
    started = time.monotonic()
    footage, preset = out / "footage", _active_preset(line) if args.keep else None
    if preset is None:
        console.rule("1. record good parts")
        record_parts(learning, args.train, footage)
        console.rule("2. a first bundle of twenty parts, in seconds")
        _first_bundle(learning, first_parts(footage, FIRST_PARTS, out / "first"), out)
    if preset in {None, INSTANT}:
        console.rule("3. calibrate from all good parts, while the first bundle gives verdicts")
        _learn_behind_the_line(line, footage, out, started)
    console.rule("4. inspect")
    line = _inspect(line, args.parts, out)
    console.rule("5. what happened")
    limits = find_bundle(line, None).thresholds
    print_summary(out / "records" / line.station, limits, seconds=time.monotonic() - started)
    for picture in draw_sheets(line, out):
        print(f"look at {picture}")
    print(f"report of the calibration: {out / 'bundles' / line.station / 'active' / 'report.html'}")
    return 0


def _active_preset(line: Station) -> str | None:
    """How the active bundle was made; None where there is none."""
    if not (line.bundles / line.station / "active").exists():
        return None
    return find_bundle(line, None).manifest.preset


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
    try:
        return Station.model_validate(settings)
    except ValidationError as error:
        raise UsageError(
            f"{out}: its sockets cannot lie there: name a folder with --out whose path is short and without blanks"
        ) from error


def first_parts(footage: Path, count: int, folder: Path) -> Path:
    """Links to the first so many parts of recorded footage, with their lines, in a folder of their own."""
    lines = (footage / METADATA_NAME).read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    folder.mkdir()
    (folder / METADATA_NAME).write_text("".join(lines), encoding="utf-8")
    for line in lines:
        name = json.loads(line)["file"]
        os.link(footage / name, folder / name)
    return folder


def _learn_behind_the_line(line: Station, footage: Path, out: Path, started: float) -> None:
    """Calibrate beside a daemon that judges with the first bundle, and have it take the new one while parts come.

    The line runs at LEARNING_PERIOD_MS, which leaves the processor to the calibration. started: of the demo, on
    time.monotonic's clock.
    """
    trigger = line.trigger.model_copy(update={"period_ms": max(LEARNING_PERIOD_MS, line.trigger.period_ms)})
    line, settings, _ = _settled(line.model_copy(update={"trigger": trigger}), out)
    with Daemon(settings, line, out / "first-daemon.log") as daemon:
        next(_judged_by(daemon, find_bundle(line, None).hash))
        print(
            f"{line.station} gives verdicts, {time.monotonic() - started:.0f} s after the start: one part each "
            f"{line.trigger.period_ms:g} ms, while the processor learns",
            file=sys.stderr,
        )
        _calibrate(settings, footage, out)
        daemon.exchange()
        taken_over = next(_judged_by(daemon, find_bundle(line, None).hash))
        daemon.stop()
    print(
        f"the new bundle took over between two parts: part {taken_over['seq']} is the first that it judged. "
        f"Until then: {outcomes(out / 'records' / line.station)}"
    )


def _judged_by(daemon: Daemon, bundle_hash: str) -> Iterator[Json]:
    """The results of this bundle. Raises DaemonFailed when the daemon ends."""
    return (result for result in daemon.results() if result["bundle_hash"] == bundle_hash)


def _inspect(line: Station, parts: int, out: Path) -> Station:
    """Have a daemon inspect so many parts, as fast as this machine holds; the line as it then ran."""

    def lost(tried: Station) -> int:
        run_daemon(_written(tried, out), tried, REHEARSED_PARTS, out / "rehearsal.log", "rehearsing")
        return without_time(out / "records" / tried.station)

    line, _, said = _settled(line, out)
    print(said, file=sys.stderr)
    line = rehearsed(line, lost, lambda said: print(said, file=sys.stderr))
    run_daemon(_written(line, out), line, parts, out / "daemon.log", "inspecting")
    return line


def _settled(line: Station, out: Path) -> tuple[Station, Path, str]:
    """The line no faster than this machine holds with the active bundle, its file, and what to say; empties records."""
    bundle = find_bundle(line, None)
    engine = load_engine(line, bundle)
    try:
        line, said = paced(line, engine_times(bundle, engine.runtime))
    finally:
        engine.runtime.close()
    return line, _written(line, out), said


def _written(line: Station, out: Path) -> Path:
    """The file of a line that has no records yet: those of an earlier run are emptied."""
    settings = out / "station.yaml"
    settings.write_text(yaml.safe_dump(line.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    shutil.rmtree(out / "records", ignore_errors=True)
    return settings


def paced(line: Station, times_ms: NDArray[np.float64]) -> tuple[Station, str]:
    """The line no faster than a machine whose engine takes these times holds, and what to say of it."""
    pace, period_ms = Pace.of(times_ms), line.trigger.period_ms
    took = f"the engine takes {np.median(times_ms):.1f} ms a part here"
    if held(line, pace):
        return line, f"{took}: one part each {period_ms:g} ms, as the station has it"
    trigger = line.trigger.model_copy(update={"period_ms": max(period_ms, pace.period_ms)})
    deadline = line.line.model_copy(update={"deadline_ms": max(line.line.deadline_ms, pace.deadline_ms)})
    slower = line.model_copy(update={"trigger": trigger, "line": deadline})
    return slower, f"{took}, too long for the station's own pace: {pace.proposal(line)} in its place"


def _first_bundle(station: Station, parts: Path, out: Path) -> None:
    """Make it of the parts in a folder, and activate it."""
    from inspectd.commands.calibrate import calibrate_station, progress_bars

    with progress_bars() as progress:
        bundle = calibrate_station(station, parts, station.bundles, "instant", progress, work=out / "work")
    activate(station.bundles, station.station, bundle.hash)


def _calibrate(settings: Path, footage: Path, out: Path) -> None:
    """Run `inspectd calibrate` behind all else on the machine. Raises CalibrationFailed."""
    program = [sys.executable, "-m", "inspectd", "calibrate", "--station", str(settings), "--data", str(footage)]
    command = ["nice", "-n", str(BEHIND), *program, "--work", str(out / "work")]
    exit_code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603 - our own program
    if exit_code:
        raise CalibrationFailed(exit_code)
