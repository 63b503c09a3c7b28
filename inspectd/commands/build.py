"""`inspectd build`: the TensorRT plan of a station's bundle for this machine's GPU; checked before it may judge."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import TaskID

from engines.artifact import Bundle
from engines.errors import EngineUnavailable, ParityError
from engines.gpu import Gpu, TensorRt, find_gpu, import_tensorrt
from engines.plans import PlanCache, PlanKey, PlanPrecision, plan_key
from engines.runtimes import run_plan
from engines.runtimes.choice import plan_precisions
from inspectd.commands.calibrate import FOOTAGE
from inspectd.commands.good_parts import read_good_parts
from inspectd.commands.running import refuse_while_running
from inspectd.config import Station, load_station
from inspectd.errors import UsageError
from inspectd.loading import find_bundle, part_template
from inspectd.terminal import progress_bar

Progress = Callable[[str, int, int], None]

EPILOG = """\
examples:
  inspectd build --station smdc                        while the line stands; minutes at first, later less
  inspectd build --station smdc --precision int8       ranges from the good parts in footage/smdc
  inspectd build --station smdc --while-running        beside the daemon, whose verdicts may come late meanwhile
  inspectd build --station smdc --again                also where a plan is there

A plan belongs to one bundle, one kind of GPU, one TensorRT version and one engine.batch: build again after calibrating
and after any of these has changed. The golden images must come out as the bundle says, or the plan is discarded.

exit codes: 0 built, or there already; 4 bundle; 5 no good parts for int8; 9 no GPU, driver or package, the builder
refused, or the golden images were not reproduced; 18 the station's daemon runs. See docs/gpu.md.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "build",
        help="build the bundle's TensorRT engine for this machine's GPU",
        description="Build the TensorRT plan of a station's bundle for this machine's GPU, and check it on the golden "
        "images. The daemon takes it from its next start on (engine.runtime auto or tensorrt).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--station", required=True, help="station name, or path of its settings")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    parser.add_argument(
        "--precision", choices=("auto", "f32", "f16", "int8"), help="default: the station's engine.plan_precision"
    )
    parser.add_argument("--data", type=Path, help="int8 only: folder with good parts (default: footage/<station>)")
    parser.add_argument("--while-running", action="store_true", help="build although the station's daemon runs")
    parser.add_argument("--again", action="store_true", help="build although the plan is there")


def run(args: argparse.Namespace) -> int:
    """Build; returns 0. Raises EngineUnavailable, ParityError, BundleError, StationBusy, UsageError, SettingsError."""
    station = load_station(args.station)
    if args.precision is not None:
        engine = station.engine.model_copy(update={"plan_precision": args.precision})
        station = station.model_copy(update={"engine": engine})
    bundle = find_bundle(station, args.bundle)
    gpu, tensorrt = find_gpu(), import_tensorrt()
    if not args.while_running:
        refuse_while_running(station, "give --while-running and expect late verdicts")
    building = _Building(station, bundle, gpu, tensorrt, args.data)
    wanted = plan_precisions(station.engine)
    for precision in wanted:
        if not args.again and building.is_there(precision):
            return 0
        try:
            building.build(precision)
            return 0
        except ParityError as error:
            if precision == wanted[-1]:
                raise
            print(f"inspectd: {precision} is discarded: {error}", file=sys.stderr)
    return 0


class _Building:
    """One station's plans on this machine."""

    def __init__(self, station: Station, bundle: Bundle, gpu: Gpu, tensorrt: TensorRt, data: Path | None) -> None:
        self._station, self._bundle, self._gpu, self._tensorrt, self._data = station, bundle, gpu, tensorrt, data
        self._cache = PlanCache(Path(station.engine.plans), station.engine.plans_bytes)
        self._batch = station.engine.batch

    def is_there(self, precision: PlanPrecision) -> bool:
        """Whether a plan that may run is there, and say so; a damaged one is named, and is none."""
        key = self._key(precision)
        if not self._cache.has(key):
            return False
        try:
            self._cache.find(key)
        except EngineUnavailable as error:
            print(f"inspectd: {error}", file=sys.stderr)
            return False
        print(f"bundle {self._bundle.short_hash}: the plan {key} is there already; --again builds it anew")
        return True

    def build(self, precision: PlanPrecision) -> None:
        """Build, check, put into the cache, and say so."""
        try:
            from engines.compilation.gpu.bundles import PlanRequest, build_for_bundle
        except ImportError as error:
            raise UsageError(f"build needs {error.name}: pip install 'inspectd[gpu]'") from error
        with _progress() as progress:
            good_parts = self._good_parts(progress) if precision == "int8" else _NO_PARTS
            request = PlanRequest(self._bundle, precision, self._gpu, self._tensorrt, self._cache, self._batch)
            folder, reproduced = build_for_bundle(request, run_plan, good_parts=good_parts, progress=progress)
        key = self._key(precision)
        print(
            f"bundle {self._bundle.short_hash}: built {key} into {folder}; {reproduced.images} golden images, off by "
            f"{reproduced.worst_deviation:.2g} of the limit at most; the daemon takes it at its next start"
        )

    def _key(self, precision: PlanPrecision) -> PlanKey:
        return plan_key(self._bundle, self._gpu, self._tensorrt, precision, batch=self._batch)

    def _good_parts(self, progress: Progress) -> NDArray[np.uint8]:
        data = self._data or FOOTAGE / self._station.station
        return read_good_parts(
            self._station, data, progress, part_template(self._bundle), self._bundle.manifest.settings.levels
        ).images


_NO_PARTS = np.zeros((0, 1, 1, 3), np.uint8)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error for each step."""
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        yield report
