"""`inspectd calibrate`: good parts of a station -> part images -> bundle, activated."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn

from engines.artifact import Bundle, SettingsSnapshot, activate
from engines.pictures import Levels
from inspectd.commands.good_parts import read_excluded, read_good_parts
from inspectd.commands.running import refuse_while_running
from inspectd.config import Station, load_station
from inspectd.errors import SettingsError, UsageError
from inspectd.terminal import PlainConsole, description

if TYPE_CHECKING:
    from calibration.calibrate import Confirm, GoodParts, Learnt, OddGoodPart, Preset

FOOTAGE = Path("footage")
WORK = Path("work")
MAKING = ("--name", "--station-out", "--survey-only", "--force")

EPILOG = """\
examples:
  inspectd calibrate --data photos/nuts                   no station yet: look at the pictures, choose one, write
                                                          nuts.yaml, and calibrate with it (docs/auto.md)
  inspectd calibrate --data photos/nuts --survey-only     the same without calibrating: read nuts.yaml first
  inspectd calibrate --station smdc                       parts that `inspectd record` saved in footage/smdc
  inspectd calibrate --station texture --data mvtec/carpet   the train/good images of a data set in MVTec layout
  inspectd calibrate --station smdc --preset instant      a bundle in seconds, from five good parts on; refine it later
  inspectd calibrate --station smdc --preset full         the paper's schedule: hours on a CPU
  inspectd calibrate --station smdc --out /tmp/trial      write the bundle there, and leave the active one alone
  inspectd calibrate --station nuts --exclude odd.txt     without the good parts that the file lists, one a line

Good parts that are far from all others decide the limits. On a terminal you are asked whether such a part is good;
elsewhere it is told of, and kept. --exclude takes a file of names (000.png) or paths; `exclude.txt` in the data folder
does the same.

An interrupted calibration resumes where it stopped when the same command is given again.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "calibrate",
        help="learn from good parts; write and activate a bundle",
        description="Learn from good parts, write an immutable bundle with its report, and activate it. Without "
        "--station, first make a station from the pictures in --data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--station", help="station name, or path of its settings; without it one is made from the pictures in --data"
    )
    parser.add_argument("--data", type=Path, help="folder with good parts (default: footage/<station>)")
    parser.add_argument("--out", type=Path, help="write the bundle below this folder and do not activate it")
    parser.add_argument(
        "--preset",
        choices=("instant", "quick", "full"),
        default="quick",
        help="instant: seconds, from the memory alone; quick: a minute or a few; full: the paper's schedule",
    )
    parser.add_argument(
        "--exclude", type=Path, metavar="FILE", help="text file of good parts to leave out, a name or path on each line"
    )
    parser.add_argument("--no-activate", action="store_true", help="write the bundle, leave the active one alone")
    parser.add_argument(
        "--work", type=Path, default=WORK, help=f"folder from which an interrupted training resumes ({WORK})"
    )
    made = parser.add_argument_group("without --station")
    made.add_argument("--name", help="name of the station that is made (default: from the data folder's name)")
    made.add_argument("--station-out", type=Path, metavar="FILE", help="write it there (default: ./<name>.yaml)")
    made.add_argument("--survey-only", action="store_true", help="stop when it is written; calibrate nothing")
    made.add_argument("--force", action="store_true", help="overwrite the file where it is there")


def run(args: argparse.Namespace) -> int:
    """Calibrate; returns 0. Raises the errors of `calibration` and `engines`, those of `make_station`, StationBusy."""
    if args.station is None:
        args.station = str(_made_station(args))
        if args.survey_only:
            return 0
    elif unfit := [option for option in MAKING if getattr(args, option[2:].replace("-", "_"))]:
        raise UsageError(f"{unfit[0]} is for making a station from pictures; leave --station out, or {unfit[0]}")
    station = load_station(args.station)
    _spare_the_gpu(station)
    data = args.data or FOOTAGE / station.station
    with progress_bars() as report:
        bundle = calibrate_station(
            station,
            data,
            args.out or station.bundles,
            args.preset,
            report,
            work=args.work,
            excluded=read_excluded(data, args.exclude),
            confirm=asking(report) if sys.stdin.isatty() and sys.stderr.isatty() else None,
        )
    if args.out is None and not args.no_activate:
        activate(station.bundles, station.station, bundle.hash)
    _say(bundle, activated=args.out is None and not args.no_activate)
    return 0


def _made_station(args: argparse.Namespace) -> Path:
    """The file of a station that is made from the pictures in --data."""
    if args.data is None:
        raise UsageError("give --station, or --data with pictures of good parts to make one from")
    from inspectd.commands.surveying import Asked, make_station

    asked = Asked(data=args.data, name=args.name, out=args.station_out, force=args.force)
    with progress_bars() as report:
        made = make_station(asked, report, exclude=args.exclude)
    made.say(calibrates=not args.survey_only)
    return made.path


def _spare_the_gpu(station: Station) -> None:
    """Raise StationBusy where training would take a GPU from the running daemon, which may need it for its verdicts."""
    try:
        from calibration.device import training_device
    except ImportError:
        return  # calibrate_station says what is missing
    if training_device(station.calibration.device).type == "cuda":
        refuse_while_running(station, "set calibration.device: cpu")


def calibrate_station(
    station: Station,
    data: Path,
    root: Path,
    preset: Preset,
    progress: Callable[[str, int, int], None],
    *,
    work: Path = WORK,
    excluded: frozenset[str] = frozenset(),
    confirm: Confirm | None = None,
    learnt: Learnt | None = None,
) -> Bundle:
    """Learn the station from the good parts in `data` and write a bundle below `root`; does not activate it.

    `work` keeps what an interrupted training resumes from. excluded: names or paths of good parts to leave out.
    confirm: asks a person about odd good parts; None: they are told of on standard error, and kept.
    learnt: is shown what was learnt, before it is compiled.

    Raises DataError, TooFewParts, TrainingDeviceError, WeightsError, EngineUnavailable, ParityError, BundleError,
    SettingsError.
    """
    try:
        from calibration.calibrate import Request, calibrate, nobody_looks
    except ImportError as error:
        raise SettingsError(f"calibrate needs {error.name}: pip install 'inspectd[calibrate]'") from error
    parts = read_good_parts(station, data, progress, excluded=excluded)
    for line in parts.seen:
        print(f"inspectd: {line}", file=sys.stderr)
    settings = snapshot(station, parts.levels)
    for warning in parts.warnings(settings):
        print(f"inspectd: warning: {warning}", file=sys.stderr)
    request = Request(
        station=station.station,
        snapshot=settings,
        preset=preset,
        asked_rate=station.calibration.false_reject_rate,
        confidence=station.calibration.confidence,
        held_out_share=station.calibration.held_out_share,
        seed=station.calibration.seed,
        device=station.calibration.device,
    )
    return calibrate(
        parts,
        request,
        root,
        work / station.station / _work_name(request.snapshot, parts, preset),
        progress,
        confirm or tell,
        learnt or nobody_looks,
    )


def tell(odd: Sequence[OddGoodPart]) -> tuple[str, ...]:
    """Say which good parts are odd, on standard error, and keep them all."""
    for part in odd:
        print(f"inspectd: warning: {part.sentence}", file=sys.stderr)
    return ()


def asking(report: ProgressBars) -> Confirm:
    """A Confirm that asks on the terminal about each odd part once: y leaves it out, anything else keeps it."""
    settled: set[str] = set()

    def confirm(odd: Sequence[OddGoodPart]) -> list[str]:
        denied = []
        for part in odd:
            if part.part_id in settled:
                continue
            settled.add(part.part_id)
            with report.paused():
                print(part.sentence, file=sys.stderr)
                if input(f"Leave {part.name} out? [y/N] ").strip().lower() in {"y", "yes"}:
                    denied.append(part.part_id)
        return denied

    return confirm


def snapshot(station: Station, levels: Levels | None = None) -> SettingsSnapshot:
    """The settings that scores depend on, as the bundle keeps them; levels: of the good parts."""
    return SettingsSnapshot(
        canvas=station.canvas,
        regions=station.regions,
        model=station.model,
        locate=station.locate.model_dump(mode="json"),
        engine=station.engine,
        levels=levels,
    )


class ProgressBars:
    """Bars on standard error, one per step: call with (what, done, total)."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of a step, which appears where it is new."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to a question, then go on."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()


@contextmanager
def progress_bars() -> Iterator[ProgressBars]:
    """Bars until the end of the block."""
    columns = (description("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=PlainConsole(stderr=True)) as bars:
        yield ProgressBars(bars)


def _work_name(settings: SettingsSnapshot, parts: GoodParts, preset: str) -> str:
    """Training resumes only for the same settings, parts and preset: their fingerprint names the folder."""
    digest = hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(preset.encode())
    for image in parts.images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:16]


def _say(bundle: Bundle, *, activated: bool) -> None:
    limits = bundle.thresholds
    engine = bundle.manifest.engine
    print(f"bundle {bundle.short_hash}{' (active)' if activated else ''}: {bundle.folder}")
    print(f"engine {engine.runtime} {engine.precision}; part threshold {limits.part.value:.4g}")
    print(
        f"expected false-reject rate {limits.expected_rate:.2%} ({limits.low:.2%} to {limits.high:.2%} with "
        f"{limits.confidence:.0%} confidence), from {limits.parts} good parts that training did not see"
    )
    for note in limits.notes:
        print(f"note: {note}")
    print(f"report: {bundle.folder / 'report.html'}")
