#!/usr/bin/env python3
"""Teach the discriminator once, on defects drawn on stations that do not exist: what every station begins with.

Nothing else enters: no picture of a product, no labelled part, nothing of the simulated line.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from teaching.drawn_stations import draw_station
from torch import Tensor, nn

from calibration.discriminate import TAUGHT, drawn_loss, paint
from calibration.drawn_defects import DefectPainter
from calibration.surface import introduce
from engines.networks.discriminator import MEMBERS, Discriminator, Member
from engines.settings import CanvasSettings, RegionSettings
from inspectd.commands.arguments import MOST_SEED, count, whole
from inspectd.exits import run_program

EPILOG = """\
examples:
  tools/teach_discriminator.py                         writes calibration/discriminator.safetensors; takes 15 minutes
  tools/teach_discriminator.py --out /tmp/trial.safetensors --stations 100 --steps 1000

Each network is taught on stations and defects of its own, in a process of its own. The last bits depend on the
processor.
"""
HEIGHT, WIDTH = 64, 96
"""Of a drawn part, in view pixels: it holds several of the largest defects, and whole steps of the coarsest layer."""
PARTS, KNOWN, TAUGHT_FROM = 48, 36, 24
"""Parts of a station: all, those that its statistics know, the first that is taught on. Half of those that are taught
on were known to the statistics: at a station they all are, while the parts that it judges are not."""
STATIONS_PER_STEP, PARTS_PER_STATION = 6, 5
HIGHEST_RATE, WARM_UP_SHARE, WEIGHT_DECAY, LARGEST_GRADIENT = 4e-3, 0.1, 1e-4, 1.0
STATISTICS = ("mean", "gain", "detail_gain", "noise_gain")
SAID_EVERY = 500


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one network learns from. images: (P, h, w, 3) uint8; statistics: the discriminator's buffers on them."""

    images: NDArray[np.uint8]
    statistics: dict[str, Tensor]
    painter: DefectPainter


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_program("teach_discriminator", list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="teach_discriminator",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=TAUGHT, metavar="FILE", help=f"where to ({TAUGHT.name})")
    parser.add_argument("--stations", type=count, default=600, metavar="N", help="drawn stations a network (600)")
    parser.add_argument("--steps", type=count, default=8000, metavar="N", help="steps a network (8000)")
    parser.add_argument(
        "--seed", type=whole(1, MOST_SEED), default=1, metavar="N", help="same seed, same stations and defects (1)"
    )
    args = parser.parse_args(arguments)
    tensors: dict[str, Tensor] = {}
    with ProcessPoolExecutor(MEMBERS, mp_context=get_context("spawn")) as pool:
        taught = pool.map(
            teach, *zip(*[(args.seed, n, args.stations, args.steps) for n in range(MEMBERS)], strict=True)
        )
        for number, member in enumerate(taught):
            tensors |= {f"{number}.{name}": torch.from_numpy(value) for name, value in member.items()}
    command = f"tools/teach_discriminator.py --stations {args.stations} --steps {args.steps} --seed {args.seed}"
    save_file(tensors, args.out, metadata={"made by": f"{command}, with torch {torch.__version__}"})
    print(f"{args.out}: {MEMBERS} networks")
    return 0


def teach(seed: int, number: int, stations: int, steps: int) -> dict[str, NDArray[np.generic]]:
    """The state of one network, by name, after so many steps on so many stations; blocks for minutes."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed * MEMBERS + number)
    whole = RegionSettings(name="all", top_px=0, left_px=0, height_px=HEIGHT, width_px=WIDTH)
    discriminator = Discriminator(CanvasSettings(height_px=HEIGHT, width_px=WIDTH), [whole])
    rng = np.random.default_rng([seed, number])
    lessons = [_lesson(discriminator, rng) for _ in range(stations)]
    member = Member().train()
    optimiser = torch.optim.AdamW(member.parameters(), lr=HIGHEST_RATE, weight_decay=WEIGHT_DECAY)
    total = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step / steps)
        compared, masks = _batch(discriminator, lessons, np.random.default_rng([seed, number, step]))
        loss = drawn_loss(member(compared.contiguous(memory_format=torch.channels_last)), masks)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(member.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        total += float(loss.detach())
        if step % SAID_EVERY == SAID_EVERY - 1:
            print(f"network {number}, step {step + 1}: loss {total / SAID_EVERY:.3f}", file=sys.stderr, flush=True)
            total = 0.0
    return {name: value.numpy() for name, value in member.eval().state_dict().items()}


def _lesson(discriminator: Discriminator, rng: np.random.Generator) -> Lesson:
    station = draw_station(rng, PARTS, HEIGHT, WIDTH)
    seen = torch.from_numpy(station.parts[:KNOWN]).permute(0, 3, 1, 2).float().contiguous()
    with torch.no_grad():
        introduce(discriminator, seen, torch.from_numpy(station.inside), canonical=station.posed)
    statistics = {name: discriminator.get_buffer(name).clone() for name in STATISTICS}
    painter = DefectPainter(station.inside, (1.0 / statistics["noise_gain"][0]).numpy())
    return Lesson(station.parts[TAUGHT_FROM:], statistics, painter)


def _batch(discriminator: Discriminator, lessons: list[Lesson], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """What the discriminator makes of some painted parts of some stations, and the masks of what was painted."""
    pairs = list(_painted(discriminator, lessons, rng))
    return torch.cat([compared for compared, _ in pairs]), torch.cat([masks for _, masks in pairs])


def _painted(
    discriminator: Discriminator, lessons: list[Lesson], rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    for place in rng.integers(0, len(lessons), STATIONS_PER_STEP):
        lesson = lessons[place]
        chosen = lesson.images[rng.integers(0, len(lesson.images), PARTS_PER_STATION)].astype(np.float32)
        painted, masks = paint(chosen, lesson.painter, rng, turn=False)
        with torch.no_grad():
            for name, value in lesson.statistics.items():
                discriminator.get_buffer(name).copy_(value)
            yield discriminator.compared(torch.from_numpy(painted).permute(0, 3, 1, 2)), torch.from_numpy(masks)


def _rate(done: float) -> float:
    """One cycle (Smith and Topin 2018)."""
    if done < WARM_UP_SHARE:
        return HIGHEST_RATE * (0.04 + 0.48 * (1 - math.cos(math.pi * done / WARM_UP_SHARE)))
    return HIGHEST_RATE * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


if __name__ == "__main__":
    sys.exit(main())
