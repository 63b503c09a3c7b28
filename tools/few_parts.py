#!/usr/bin/env python3
"""What stations without training are worth from few good parts: calibrated again and again on draws of so many."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarking.machine import describe_machine, markdown_table
from benchmarking.page import machines_of
from benchmarking.peers import PRESET, sets_of, stations_of
from benchmarking.plan import defaults_of, scored_sections, unchanged
from benchmarking.steps import Row, read_rows, write_rows, write_text
from numpy.typing import NDArray
from rich.progress import Progress

from calibration.dataset import GOOD, Sample, load_image, read_dataset
from calibration.detection import Asked, rejected
from calibration.errors import DataError
from calibration.fit_memory import fit_memory
from calibration.metrics import image_auroc
from engines.networks.fused import FusedEngine
from inspectd.commands.arguments import count
from inspectd.config import Station, load_station
from inspectd.exits import run_program
from inspectd.locate import Locator
from inspectd.terminal import progress_bar

PARTS = (5, 10, 20, 50)
NEEDED = ("data", "number", "settings")
EPILOG = """\
examples:
  tools/few_parts.py --data ../shared/data/objects --data ../shared/data/paper --station paper=texture
  tools/few_parts.py --data ../shared/data/objects --out few_parts.json --write docs/results/few_parts.md
  tools/few_parts.py --data sets/nut --parts 5 --parts 20 --draws 10 --station object

Each draw learns from so many of the good parts, chooses limits for the station's false-reject rate, and judges the
labelled parts and all good parts that it has not drawn. Some ten seconds a draw. A folder may be one set in MVTec
layout, or hold several. Draws that the output file has already, with the same settings, are not made again: Ctrl-C is
safe, and more --draws add to what is there. A number of parts that a set does not exceed is left out for that set.
"""
HEAD = """\
# From a handful of good parts

`tools/few_parts.py` wrote this page; do not edit it. [Thresholds](../thresholds.md) says how limits are chosen.

    {command}

{machines}
"""
ABOUT = """\
So many good parts are drawn from a set, the station learns from them and chooses its limits for the false-reject rate
that it asks for; then it judges the labelled parts, and all good parts that were not drawn. This is repeated with
other draws. False rejects are those of the judged good parts, on average over the draws, beside the highest rate that
the calibrations promised, on average, too; escapes are defective parts that pass. A number of parts that a set does
not exceed is left out.
"""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one calibration promised and did; rates are shares of 1."""

    auroc: float
    promised: float
    false_rejects: float
    escapes: float


@dataclass(frozen=True, slots=True)
class _Parts:
    """Part images of a set (P, H, W, 3): good ones to learn from, and labelled ones with whether each is defective."""

    good: NDArray[np.uint8]
    test: NDArray[np.uint8]
    defective: NDArray[np.bool_]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_program("few_parts", list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> int:
    args = _parser().parse_args(arguments)
    sets = sets_of(args.data)
    stations = {name: load_station(station) for name, station in stations_of(args.station, sets).items()}
    numbers = {name: _numbers(path, args.parts or PARTS) for name, path in sets.items()}
    with progress_bar() as bars:
        task = bars.add_task("calibrating", total=sum(map(len, numbers.values())) * args.draws)
        rows = []
        for name, path in sets.items():
            bars.update(task, description=name)
            asked = [(number, seed) for number in numbers[name] for seed in range(args.draws)]
            rows += _drawn(path, stations[name], asked, args.out, bars)
    page = few_parts_page(rows, f"tools/few_parts.py {' '.join(arguments)}")
    if args.write is not None:
        write_text(args.write, page)
    print(page, end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="few_parts", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="a labelled set, or a folder of sets; repeatable"
    )
    parser.add_argument(
        "--station",
        action="append",
        default=[],
        metavar="[SET=]STATION",
        help="station with score memory, for all sets, one, or those of a folder: name or path (object); repeatable",
    )
    parser.add_argument("--parts", type=count, action="append", help="good parts to learn from (5, 10, 20, 50)")
    parser.add_argument("--draws", type=count, default=20, help="calibrations for each number of parts (20)")
    parser.add_argument("--out", type=Path, default=Path("few_parts.json"), help="draws so far (few_parts.json)")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="write the page there, too")
    return parser


def few_parts_page(rows: Sequence[Row], command: str) -> str:
    """The whole page in Markdown: one line for each set and number of parts. rows: one for each draw."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["number"]), []).append(row)
    head = ("set", "station", "good parts", "draws", "image AUROC, mean (lowest)", "false rejects")
    body = [_line(name, number, drawn) for (name, number), drawn in groups.items()]
    table = markdown_table((*head, "promised at most", "escapes, mean (highest)"), body)
    return f"{HEAD.format(command=command, machines=machines_of(rows))}\n{ABOUT}\n{table}\n"


def _line(name: str, number: int, drawn: Sequence[Row]) -> tuple[str, ...]:
    aurocs, escapes = ([row[what] for row in drawn] for what in ("auroc", "escapes"))
    return (
        name,
        drawn[0]["station"],
        str(number),
        str(len(drawn)),
        f"{np.mean(aurocs):.3f} ({min(aurocs):.3f})",
        f"{np.mean([row['false_rejects'] for row in drawn]):.2%}",
        f"{np.mean([row['promised'] for row in drawn]):.1%}",
        f"{np.mean(escapes):.0%} ({max(escapes):.0%})",
    )


def _numbers(data: Path, wanted: Sequence[int]) -> list[int]:
    """Numbers of parts that leave a good part to be judged. Raises DataError where a set cannot tell both rates."""
    found = read_dataset(data)
    if len({sample.label == GOOD for sample in found.labelled}) < 2:
        raise DataError(f"{data}: needs labelled parts of both kinds (test/good and test/<defect>)")
    return [number for number in wanted if number < len(found.good)]


def _drawn(data: Path, station: Station, asked: Sequence[tuple[int, int]], out: Path, bars: Progress) -> list[Row]:
    """The rows of the draws asked for (number, seed); those that `out` lacks are made, and kept there one by one."""
    rows, wanted, defaults = read_rows(out, NEEDED), scored_sections(station, PRESET), defaults_of(station)
    known = {
        (row["number"], row["seed"]): row
        for row in rows
        if row["data"] == data.name and unchanged(row["settings"], wanted, defaults)
    }
    parts: _Parts | None = None
    found = []
    for number, seed in asked:
        row = known.get((number, seed))
        if row is None:
            parts = parts or _read(data, station)
            about = {"data": data.name, "station": station.station, "number": number, "seed": seed}
            draw = asdict(_draw(station, parts, number, seed))
            row = {**about, "settings": wanted, "machine": describe_machine(), **draw}
            rows.append(row)
            write_rows(out, rows)
        found.append(row)
        bars.advance(bars.task_ids[0])
    return found


def _read(data: Path, station: Station) -> _Parts:
    """Every part of the set, located as the station does it."""
    found = read_dataset(data)
    defective = np.array([sample.label != GOOD for sample in found.labelled], dtype=np.bool_)
    return _Parts(_images(station, found.good), _images(station, found.labelled), defective)


def _images(station: Station, samples: Sequence[Sample]) -> NDArray[np.uint8]:
    locator = Locator(station.locate, station.canvas)
    return np.stack([locator.locate(load_image(sample.path)).part_image for sample in samples])


def _draw(station: Station, parts: _Parts, number: int, seed: int) -> Draw:
    """Learn from `number` of the good parts, drawn with the seed; judge the labelled parts and the good parts left."""
    order = np.random.default_rng(seed).permutation(len(parts.good))
    asked = Asked.of(station.calibration.false_reject_rate, station.calibration.confidence, station.regions)
    fitted = fit_memory(
        parts.good[np.sort(order[:number])],
        np.arange(number),
        station.model,
        station.canvas,
        station.regions,
        asked=asked,
        seed=seed,
        progress=lambda *_: None,
    )
    engine = FusedEngine(fitted.network, station.model, station.canvas, station.regions, fitted.constants)
    limits = asked.limits(fitted.region_scores)
    scores = _scores(engine, parts.test)
    fresh = np.concatenate([scores[~parts.defective], _scores(engine, parts.good[order[number:]])])
    return Draw(
        auroc=float(image_auroc(scores.max(axis=1), parts.defective)),
        promised=limits.high,
        false_rejects=float(rejected(fresh, limits).mean()),
        escapes=float(1 - rejected(scores[parts.defective], limits).mean()),
    )


def _scores(engine: FusedEngine, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Region scores (P, R), one image after the other."""
    with torch.inference_mode():
        return np.stack([engine(torch.from_numpy(image[None]))[1][0].numpy() for image in images]).astype(np.float64)


if __name__ == "__main__":
    sys.exit(main())
