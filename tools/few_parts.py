#!/usr/bin/env python3
"""What a station without training is worth from few good parts: calibrated again and again on draws of so many."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarking.machine import describe_machine, markdown_table
from numpy.typing import NDArray

from calibration.dataset import GOOD, Sample, load_image, read_dataset
from calibration.detection import Asked, rejected
from calibration.errors import DataError
from calibration.fit_memory import fit_memory
from calibration.metrics import image_auroc
from engines.networks.fused import FusedEngine
from inspectd.commands.arguments import count
from inspectd.commands.terminal import progress_bar
from inspectd.config import Station, load_station
from inspectd.exits import run_program
from inspectd.locate import Locator

EPILOG = """\
examples:
  tools/few_parts.py --data ../shared/data/objects/metal_nut
  tools/few_parts.py --data sets/nut --parts 5 --parts 20 --draws 10 --station object

Each draw learns from so many of the good parts, chooses limits for the station's false-reject rate, and judges the
labelled parts and all good parts that it has not drawn. Some ten seconds a draw.
"""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one calibration promised and did; rates are shares of 1."""

    auroc: float
    promised: float
    false_rejects: float
    escapes: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_program("few_parts", list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="few_parts", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="labelled set in MVTec layout")
    parser.add_argument("--station", default="object", help="name or path of a station with score memory (object)")
    parser.add_argument("--parts", type=count, action="append", help="good parts to learn from (5, 10, 20, 50)")
    parser.add_argument("--draws", type=count, default=20, help="calibrations for each number of parts (20)")
    args = parser.parse_args(arguments)
    station = load_station(args.station)
    data = read_dataset(args.data)
    good = _images(station, data.good)
    test = _images(station, data.labelled)
    defective = np.array([sample.label != GOOD for sample in data.labelled], dtype=np.bool_)
    if not defective.any() or defective.all():
        raise DataError(f"{args.data}: needs labelled parts of both kinds (test/good and test/<defect>)")
    numbers = [number for number in args.parts or (5, 10, 20, 50) if number < len(good)]
    rows = []
    with progress_bar() as bar:
        task = bar.add_task("calibrating", total=len(numbers) * args.draws)
        for number in numbers:
            draws = []
            for seed in range(args.draws):
                draws.append(_draw(station, good, test, defective, (number, seed)))
                bar.advance(task)
            rows.append(_row(number, draws))
    head = ("good parts", "image AUROC, mean (lowest)", "false rejects", "promised at most", "escapes, mean (highest)")
    print(f"{describe_machine()}\n\n    tools/few_parts.py {' '.join(arguments)}\n\n{markdown_table(head, rows)}")
    return 0


def _images(station: Station, samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """Part images (P, H, W, 3), each located as the station does it."""
    locator = Locator(station.locate, station.canvas)
    return np.stack([locator.locate(load_image(sample.path)).part_image for sample in samples])


def _draw(
    station: Station,
    good: NDArray[np.uint8],
    test: NDArray[np.uint8],
    defective: NDArray[np.bool_],
    chosen: tuple[int, int],
) -> Draw:
    """Learn from `chosen` (number, seed) of the good parts; judge the test parts and the good parts left."""
    number, seed = chosen
    order = np.random.default_rng(seed).permutation(len(good))
    asked = Asked.of(station.calibration.false_reject_rate, station.calibration.confidence, station.regions)
    fitted = fit_memory(
        good[np.sort(order[:number])],
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
    scores = _scores(engine, test)
    fresh = np.concatenate([scores[~defective], _scores(engine, good[order[number:]])])
    return Draw(
        auroc=float(image_auroc(scores.max(axis=1), defective)),
        promised=limits.high,
        false_rejects=float(rejected(fresh, limits).mean()),
        escapes=float(1 - rejected(scores[defective], limits).mean()),
    )


def _scores(engine: FusedEngine, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Region scores (P, R), one image after the other."""
    with torch.inference_mode():
        return np.stack([engine(torch.from_numpy(image[None]))[1][0].numpy() for image in images]).astype(np.float64)


def _row(number: int, draws: Sequence[Draw]) -> tuple[str, ...]:
    aurocs = [draw.auroc for draw in draws]
    escapes = [draw.escapes for draw in draws]
    return (
        str(number),
        f"{np.mean(aurocs):.3f} ({min(aurocs):.3f})",
        f"{np.mean([draw.false_rejects for draw in draws]):.2%}",
        f"{np.mean([draw.promised for draw in draws]):.1%}",
        f"{np.mean(escapes):.0%} ({max(escapes):.0%})",
    )


if __name__ == "__main__":
    sys.exit(main())
