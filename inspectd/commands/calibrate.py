"""`inspectd calibrate`: good parts of a station -> part images -> bundle, activated."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from engines.alignment import PartTemplate
from engines.artifact import Bundle, SettingsSnapshot, activate, image_hash
from inspectd.commands.running import refuse_while_running
from inspectd.config import Station, load_station
from inspectd.errors import SettingsError
from inspectd.locate import Locator
from inspectd.located import LocateFault
from inspectd.messages import Image, Reason

if TYPE_CHECKING:
    from calibration.calibrate import GoodParts

FOOTAGE = Path("footage")
WORK = Path("work")
MOST_UNFIT = 0.1
SHOWN_UNFIT = 5
POSES = ("pose_x_px", "pose_y_px", "pose_angle_deg", "pose_scale")

EPILOG = """\
examples:
  inspectd calibrate --station smdc                       parts that `inspectd record` saved in footage/smdc
  inspectd calibrate --station texture --data mvtec/carpet   the train/good images of a data set in MVTec layout
  inspectd calibrate --station smdc --preset full         the paper's schedule: hours on a CPU
  inspectd calibrate --station smdc --out /tmp/trial      write the bundle there, and leave the active one alone

An interrupted calibration resumes where it stopped when the same command is given again.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "calibrate",
        help="learn from good parts; write and activate a bundle",
        description="Learn from good parts, write an immutable bundle with its report, and activate it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--data", type=Path, help="folder with good parts (default: footage/<station>)")
    parser.add_argument("--out", type=Path, help="write the bundle below this folder and do not activate it")
    parser.add_argument(
        "--preset", choices=("quick", "full"), default="quick", help="quick: minutes; full: the paper's schedule"
    )
    parser.add_argument("--no-activate", action="store_true", help="write the bundle, leave the active one alone")


def run(args: argparse.Namespace) -> int:
    """Calibrate; returns 0. Raises the errors of `calibration` and `engines`, SettingsError, StationBusy."""
    station = load_station(args.station)
    _spare_the_gpu(station)
    with progress_bars() as report:
        bundle = calibrate_station(
            station, args.data or FOOTAGE / station.station, args.out or station.bundles, args.preset, report
        )
    if args.out is None and not args.no_activate:
        activate(station.bundles, station.station, bundle.hash)
    _say(bundle, activated=args.out is None and not args.no_activate)
    return 0


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
    preset: str,
    progress: Callable[[str, int, int], None],
    *,
    work: Path = WORK,
) -> Bundle:
    """Learn the station from the good parts in `data` and write a bundle below `root`; does not activate it.

    `work` keeps what an interrupted training resumes from.

    Raises DataError, TooFewParts, TrainingDeviceError, WeightsError, EngineUnavailable, ParityError, BundleError,
    SettingsError.
    """
    try:
        from calibration.calibrate import Request, calibrate
        from calibration.cautions import warnings_of
    except ImportError as error:
        raise SettingsError(f"calibrate needs {error.name}: pip install 'inspectd[calibrate]'") from error
    parts = read_good_parts(station, data, progress)
    for line in parts.seen:
        print(f"inspectd: {line}", file=sys.stderr)
    for warning in warnings_of(snapshot(station), parts.images, parts.unfit):
        print(f"inspectd: warning: {warning}", file=sys.stderr)
    request = Request(
        station=station.station,
        snapshot=snapshot(station),
        preset="full" if preset == "full" else "quick",
        asked_rate=station.calibration.false_reject_rate,
        confidence=station.calibration.confidence,
        held_out_share=station.calibration.held_out_share,
        seed=station.calibration.seed,
        device=station.calibration.device,
    )
    return calibrate(
        parts, request, root, work / station.station / _work_name(request.snapshot, parts, preset), progress
    )


def snapshot(station: Station) -> SettingsSnapshot:
    """The settings that scores depend on, as the bundle keeps them."""
    return SettingsSnapshot(
        canvas=station.canvas,
        regions=station.regions,
        model=station.model,
        locate=station.locate.model_dump(mode="json"),
        engine=station.engine,
    )


def read_good_parts(
    station: Station,
    data: Path,
    progress: Callable[[str, int, int], None],
    template: PartTemplate | None = None,
) -> GoodParts:
    """Read, locate and cut every good part of a folder.

    template: of a bundle, where parts are to be located as there; else locate.mode part learns one from these parts.
    Raises DataError when too many of them cannot be located, or show no part that could be learnt.
    """
    from calibration.calibrate import GoodParts
    from calibration.dataset import load_image, read_dataset
    from calibration.errors import DataError

    samples = read_dataset(data).good
    if not samples:
        raise DataError(f"{data}: holds no good parts")
    words: tuple[str, ...] = ()
    if station.locate.mode == "part" and template is None:
        template, words = _learn_template([sample.path for sample in samples], data, progress)
    locator = Locator(station.locate, station.canvas, template)
    images: list[Image] = []
    ids: list[str] = []
    poses: list[tuple[float, float, float, float]] = []
    unfit: list[str] = []
    seen: set[str] = set()
    reasons: set[Reason] = set()
    repeated = 0
    for done, sample in enumerate(samples, start=1):
        try:
            located = locator.locate(load_image(sample.path))
        except LocateFault as fault:
            unfit.append(f"{sample.path.name} ({fault.reason.value})")
            reasons.add(fault.reason)
        else:
            print_of_it = image_hash(located.part_image)
            if print_of_it in seen:  # the same picture on both sides of a split would flatter the limits
                repeated += 1
                continue
            seen.add(print_of_it)
            images.append(located.part_image)
            ids.append(sample.part_id)
            poses.append((located.pose.x_px, located.pose.y_px, located.pose.angle_deg, located.pose.scale))
        progress("read parts", done, len(samples))
    if len(unfit) > MOST_UNFIT * len(samples):
        raise DataError(
            f"{data}: {len(unfit)} of {len(samples)} images show no part to learn from, such as "
            f"{', '.join(unfit[:SHOWN_UNFIT])}; check {_what_to_check(reasons)}"
        )
    if repeated and len(images) == 1:
        raise DataError(f"{data}: all {repeated + 1} images are the same: is the camera frozen?")
    _tell_of(unfit, repeated)
    columns = np.asarray(poses, dtype=np.float64).T
    return GoodParts(
        np.stack(images), tuple(ids), dict(zip(POSES, columns, strict=True)), len(unfit), template=template, seen=words
    )


def _tell_of(unfit: Sequence[str], repeated: int) -> None:
    """On standard error: what is not learnt from."""
    for name in unfit:
        print(f"inspectd: left out {name}", file=sys.stderr)
    if repeated:
        print(f"inspectd: left out {repeated} images that repeat another one exactly", file=sys.stderr)


def _learn_template(
    files: Sequence[Path], data: Path, progress: Callable[[str, int, int], None]
) -> tuple[PartTemplate, tuple[str, ...]]:
    """What the part looks like and how it lies, and the same in words. Raises DataError."""
    from calibration.dataset import load_image
    from calibration.errors import DataError
    from calibration.part_scene import NoPartSeen
    from calibration.part_template import learn_part_template

    progress("learn the part", 0, 1)
    try:
        learnt = learn_part_template([partial(load_image, path) for path in files])
    except NoPartSeen as fault:
        raise DataError(
            f'{data}: locate.mode part cannot be learnt: {fault}. Set locate.mode: "off", which takes the whole frame, '
            "or show the whole part on an even background"
        ) from fault
    progress("learn the part", 1, 1)
    return learnt.template, learnt.words


def _what_to_check(reasons: set[Reason]) -> str:
    """Where to look for the cause of what these say."""
    if reasons == {Reason.BAD_IMAGE}:
        return "light, exposure and lens: they are of one grey, saturated or smaller than any part"
    return "the station's locate settings"


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error, one per step, for a callback (what, done, total)."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _work_name(settings: SettingsSnapshot, parts: GoodParts, preset: str) -> str:
    """Training resumes only for the same settings, parts and preset: their fingerprint names the folder."""
    digest = hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(preset.encode())
    digest.update(parts.images.tobytes())
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
