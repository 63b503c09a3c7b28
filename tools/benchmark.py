#!/usr/bin/env python3
"""Measure what the product promises: the engine's speed, the line around it, and how well stations learn."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarking.accuracy import Plan, accuracy_tables, measure, tasks
from benchmarking.engine import engine_table, measure_bundle
from benchmarking.layers import profile_engine, profile_tables
from benchmarking.line import line_tables, measure_line
from benchmarking.machine import describe_machine
from benchmarking.page import write_page
from benchmarking.plan import load_plan
from benchmarking.results import Bench, entries_of, list_of, measure_rows
from benchmarking.sampling import sampler, sampling_format
from benchmarking.steps import StepFailed, write_text

from engines.artifact import open_bundle, resolve_bundle
from engines.runtimes.choice import find_plan
from engines.runtimes.gpu.ranges import no_ranges, nvtx_ranges
from inspectd.commands.arguments import MOST, count, number, seed, whole
from inspectd.config import load_station
from inspectd.errors import SettingsError
from inspectd.exits import EXIT_INCOMPLETE, run_program
from inspectd.loading import find_bundle
from inspectd.terminal import PlainConsole, progress_bar

RESNET18 = Path("../shared/weights/resnet18-imagenet1k_v1-to-layer3.safetensors")
LEAST_PARTS = 200  # the first 100 are warming up
PEERS = ("product", "memory", "padim", "patchcore")
EPILOG = """\
examples:
  tools/benchmark.py engine --bundle bundles/smdc              milliseconds an inference, each precision
  tools/benchmark.py gpu --station smdc                        the plan of `inspectd build` on this machine's GPU
  tools/benchmark.py line --station smdc --parts 100000        overhead from trigger to verdict, and memory
  tools/benchmark.py accuracy --data ../shared/data/paper      calibrate and evaluate every category, and smdc
  tools/benchmark.py results --plan tools/results.yaml         families x data sets x ablations, and the page of them
  tools/benchmark.py peers --data ../shared/data/paper         the product beside anomalib's PaDiM and PatchCore

Every sub-command prints Markdown tables under the machine, the date and the versions that they hold for. Nothing else
should run meanwhile. Figures as measured: docs/benchmark.md, docs/results.md, docs/results/plan.md. Exit codes:
docs/exit_codes.md.
"""
ENGINE_EPILOG = """\
examples:
  tools/benchmark.py engine --bundle bundles/smdc
  tools/benchmark.py engine --bundle bundles/smdc --bundle bundles/texture --seconds 20 --threads 2
  tools/benchmark.py engine --bundle bundles/smdc --profile      its own engine: time by submodule and operation
"""
GPU_EPILOG = """\
examples:
  tools/benchmark.py gpu --station smdc
  nsys profile tools/benchmark.py gpu --station smdc --nvtx       the ranges start and wait in Nsight Systems
"""
LINE_EPILOG = """\
examples:
  tools/benchmark.py line --station smdc                        the station's active bundle, 2000 parts
  tools/benchmark.py line --station smdc --bundle out --period-ms 10 --parts 100000
  tools/benchmark.py line --station smdc --profile line.svg     and a flame graph of the daemon, by py-spy
"""
ACCURACY_EPILOG = """\
examples:
  tools/benchmark.py accuracy --data ../shared/data/paper --out accuracy.json
  tools/benchmark.py accuracy --data ../shared/data/paper --only brg03_tl --only smdc

Rows that the output file has already are not measured again: remove the file, or name another, to start over.
"""
RESULTS_EPILOG = """\
examples:
  tools/benchmark.py results --plan mine.yaml                             rows into results.json
  tools/benchmark.py results --plan mine.yaml --list                      what there is, and what is done
  tools/benchmark.py results --plan mine.yaml --only 'texture/*'          rows by settings, data, or name
  tools/benchmark.py results --plan tools/results.yaml --out docs/results/plan.json --write docs/results/plan.md
  tools/benchmark.py results --plan mine.yaml --no-run --write mine.md    the page of what is done

Rows that the output file has are not measured again, unless their settings changed since; --retry measures those that
failed, --again all. A row that fails or takes too long is kept with the reason, and the others go on. Ctrl-C is safe:
an unfinished training resumes. Exit code 16: some rows have no figures.
"""
PEERS_EPILOG = """\
examples:
  tools/benchmark.py peers --data ../shared/data/objects --data ../shared/data/paper --station paper=texture
  tools/benchmark.py peers --data sets/nut --model padim --size 320 --write peers.md
  tools/benchmark.py peers --data sets/nut --memory-script ../shared/tools/memory.py      a plain memory of patches, too
  tools/benchmark.py peers --data sets/nut --station auto --most-seconds 1800     a station as `calibrate` chooses it
  tools/benchmark.py peers --data sets/nut --time only --bundle bundles/nut       inference times under OpenVINO
  ONEDNN_MAX_CPU_ISA=AVX2 tools/benchmark.py peers --data sets/nut --time         the same, with narrower instructions

A folder may be one set in MVTec layout, or hold several. anomalib is installed once, into a virtual environment below
--work, and fetches no weights: --weights are put into its ResNet18. Rows that the output file has already, with the
same settings, are not measured again; changes of the program or of images are not noticed: --again measures anew. A row
that fails does not stop the others; what took it down is in its log below --work, and the command ends with code 1.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_program("benchmark", list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> int:
    args = _parser().parse_args(arguments)
    command = f"tools/benchmark.py {' '.join(arguments)}"
    if args.command == "results":
        return _results(args, command)
    if args.command == "peers":
        return _peers(args, command)
    if args.command == "row":
        return _row(args)
    commands = {"engine": _engine, "gpu": _gpu, "line": _line, "accuracy": _accuracy}
    print(f"{describe_machine()}\n\n    {command}\n\n{commands[args.command](args)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    engine = _command(commands, "engine", "time a bundle's engine and its variants, interleaved", ENGINE_EPILOG)
    engine.add_argument(
        "--bundle", type=Path, action="append", required=True, help="a bundle's folder; may be repeated"
    )
    engine.add_argument("--seconds", type=number(MOST), default=10.0, help="how long each engine is timed (10)")
    engine.add_argument("--threads", type=count, default=1, help="inference threads (1)")
    engine.add_argument("--profile", action="store_true", help="where the time goes in the bundle's own engine")

    gpu = _command(commands, "gpu", "time the station's TensorRT plan, and what the card can do", GPU_EPILOG)
    gpu.add_argument("--station", required=True, help="station name, or path of its settings")
    gpu.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    gpu.add_argument("--seconds", type=number(MOST), default=10.0, help="how long throughput is measured (10)")
    gpu.add_argument("--nvtx", action="store_true", help="mark ranges for Nsight; needs the package nvtx")

    line = _command(commands, "line", "time everything between trigger and verdict, in the real daemon", LINE_EPILOG)
    line.add_argument("--station", required=True, help="station name, or path of its settings")
    line.add_argument("--bundle", type=Path, help="a bundle's folder (default: the station's active bundle)")
    line.add_argument("--parts", type=whole(LEAST_PARTS), default=2000, metavar="N", help="parts to inspect (2000)")
    line.add_argument("--period-ms", type=number(MOST), default=20.0, help="one part each so many milliseconds (20)")
    line.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="sample the daemon: .svg, .json (speedscope) or .txt",
    )

    accuracy = _command(
        commands, "accuracy", "calibrate and evaluate sets of real and simulated parts", ACCURACY_EPILOG
    )
    accuracy.add_argument("--data", type=Path, required=True, help="folder with one category a folder, in MVTec layout")
    accuracy.add_argument("--only", action="append", default=[], metavar="NAME", help="this set only; may be repeated")
    accuracy.add_argument("--preset", choices=("quick", "full"), default="quick", help="schedule of the training")
    accuracy.add_argument("--out", type=Path, default=Path("accuracy.json"), help="rows so far (accuracy.json)")
    accuracy.add_argument("--work", type=Path, default=Path("work/benchmark"), help="bundles and rendered parts")
    accuracy.add_argument("--train", type=count, default=300, help="simulated good parts to calibrate from (300)")
    accuracy.add_argument("--good", type=count, default=1000, help="simulated good parts to test with (1000)")
    accuracy.add_argument("--defective", type=count, default=900, help="simulated defective parts (900)")
    _add_results(commands)
    _add_peers(commands)
    return parser


def _add_results(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    results = _command(commands, "results", "measure the rows of a plan, and write the page of them", RESULTS_EPILOG)
    results.add_argument("--plan", type=Path, required=True, help="settings, data sets and tables (YAML)")
    results.add_argument("--out", type=Path, default=Path("results.json"), help="rows so far (results.json)")
    results.add_argument("--work", type=Path, default=Path("work/results"), help="bundles, rendered parts, pictures")
    results.add_argument("--only", action="append", default=[], metavar="NAME", help="these rows; may be repeated")
    results.add_argument("--list", action="store_true", help="list the rows, done or not, and run nothing")
    results.add_argument("--no-run", action="store_true", help="run nothing: write the page of what is done")
    results.add_argument("--retry", action="store_true", help="measure again what failed")
    results.add_argument("--again", action="store_true", help="measure again what is done, too")
    results.add_argument("--quiet-file", type=Path, metavar="FILE", help="begin no row while this file exists")
    results.add_argument("--write", type=Path, metavar="PAGE", help="write the page, and its pictures beside it")
    row = commands.add_parser("row", description="Measure one row; `results` starts it in a process of its own.")
    row.add_argument("--job", type=Path, required=True, help="what to measure (JSON)")


def _add_peers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    peers = _command(commands, "peers", "measure the product beside other methods on labelled sets", PEERS_EPILOG)
    peers.add_argument(
        "--data", type=Path, action="append", required=True, help="a set, or a folder of sets; repeatable"
    )
    peers.add_argument("--model", action="append", choices=PEERS, help="this one only; may be repeated")
    peers.add_argument(
        "--station",
        action="append",
        default=[],
        metavar="[SET=]STATION",
        help="the product's station, for all sets, one, or those of a folder: name, path, or auto (object); repeatable",
    )
    peers.add_argument(
        "--memory-script", type=Path, metavar="FILE", help="a memory of patches; its line of JSON is read"
    )
    peers.add_argument("--weights", type=Path, default=RESNET18, help=f"ResNet18 to layer3 ({RESNET18})")
    peers.add_argument("--size", type=count, default=256, metavar="PX", help="side to which parts are squashed (256)")
    peers.add_argument("--parts", type=count, default=0, metavar="N", help="learn from so many at most (default: all)")
    peers.add_argument("--coreset", type=number(1), default=0.01, help="share of patches that PatchCore keeps (0.01)")
    peers.add_argument("--seed", type=seed, default=0, help="of PaDiM's channels and PatchCore's first patch (0)")
    peers.add_argument(
        "--most-seconds", type=number(MOST), metavar="S", help="end a row that takes longer (default: never)"
    )
    peers.add_argument("--again", action="store_true", help="measure again what is done, too")
    peers.add_argument(
        "--time",
        nargs="?",
        choices=("too", "only"),
        const="too",
        help="time the product, PaDiM, STFPM and PatchCore under OpenVINO; only: measure nothing else",
    )
    peers.add_argument("--time-seconds", type=number(MOST), default=3.0, metavar="S", help="how long each is timed (3)")
    peers.add_argument(
        "--bundle", type=Path, help="the product's bundle to time (default: that of the first set's row)"
    )
    peers.add_argument("--out", type=Path, default=Path("peers.json"), help="rows so far (peers.json)")
    peers.add_argument("--work", type=Path, default=Path("work/peers"), help="anomalib's environment, bundles, logs")
    peers.add_argument("--write", type=Path, metavar="PAGE.md", help="write the page there, too")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=summary, description=summary, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _engine(args: argparse.Namespace) -> str:
    bundles = [open_bundle(resolve_bundle(path)) for path in args.bundle]
    if args.profile:
        return profile_tables((bundle, profile_engine(bundle, args.threads, args.seconds)) for bundle in bundles)
    with progress_bar() as bar:
        task = bar.add_task("bundles", total=len(bundles))
        measured = []
        for bundle in bundles:
            figures = measure_bundle(
                bundle, args.threads, args.seconds, lambda what: bar.update(task, description=what)
            )
            measured.append((bundle, figures))
            bar.advance(task)
    return engine_table(measured)


def _gpu(args: argparse.Namespace) -> str:
    try:
        from benchmarking.gpu import gpu_table, measure_plan
    except ImportError as error:
        raise SettingsError(f"benchmark gpu needs {error.name}: pip install 'inspectd[gpu]'") from error
    station = load_station(args.station)
    bundle = find_bundle(station, args.bundle)
    plan = find_plan(bundle, station.engine)
    ranges = nvtx_ranges() if args.nvtx else no_ranges
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        figures = measure_plan(bundle, plan, args.seconds, lambda what: bar.update(task, description=what), ranges)
    return gpu_table([figures])


def _line(args: argparse.Namespace) -> str:
    if args.profile is not None:
        sampling_format(args.profile)
        sampler()
    station = load_station(args.station)
    bundle = find_bundle(station, args.bundle)
    with tempfile.TemporaryDirectory(prefix="inspectd-benchmark-") as folder, progress_bar() as bar:
        task = bar.add_task("inspecting", total=args.parts)
        figures = measure_line(
            station,
            bundle,
            parts=args.parts,
            period_ms=args.period_ms,
            folder=Path(folder),
            progress=lambda done: bar.update(task, completed=done),
            profile=args.profile,
        )
    return line_tables(figures)


def _accuracy(args: argparse.Namespace) -> str:
    plan = Plan(args.preset, args.train, args.good, args.defective)
    console = PlainConsole(stderr=True)
    chosen = tasks(args.data, args.only)
    return accuracy_tables(measure(chosen, plan, args.out, args.work, console.print))


def _peers(args: argparse.Namespace, command: str) -> int:
    """Measure and print the page; the exit code is that of a failed step where a row failed."""
    try:
        from benchmarking.peer_comparison import compare
    except ImportError as error:
        raise SettingsError(f"benchmark peers needs {error.name}: pip install 'inspectd[calibrate]'") from error
    with progress_bar() as bars:
        page, failed = compare(args, command, bars)
    if args.write is not None:
        write_text(args.write, page)
    print(page, end="")
    if failed:
        raise StepFailed(failed)
    return 0


def _results(args: argparse.Namespace, command: str) -> int:
    """Measure, list or write; the exit code says whether every row asked for has figures."""
    plan = load_plan(args.plan)
    bench = Bench(plan, args.out, args.work.resolve(), again=args.again, retry=args.retry, quiet=args.quiet_file)
    entries = entries_of(bench, args.only)
    if not (args.list or args.no_run):
        with progress_bar() as bars:
            entries = measure_rows(bench, entries, bars, bars.console.print)
    if args.write is not None:
        write_page(plan, entries_of(bench, ()), args.write, bench.work, plan_name=args.plan.name, command=command)
    print(list_of(entries))
    if args.list:
        return 0
    return EXIT_INCOMPLETE if any(entry.row is None or "failed" in entry.row for entry in entries) else 0


def _row(args: argparse.Namespace) -> int:
    try:
        from benchmarking.row import measure_row
    except ImportError as error:
        raise SettingsError(f"benchmark results needs {error.name}: pip install 'inspectd[calibrate]'") from error
    measure_row(args.job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
