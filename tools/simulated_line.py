"""Render labelled sets of the simulated capacitor line, in MVTec layout: what `calibrate` and `evaluate` read."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from inspectd.cameras.capacitor_defects import LARGEST_PX, SMALLEST_PX, DefectSpec, DefectType, Severity
from inspectd.cameras.simulated import render_part
from inspectd.commands.arguments import seed, whole
from inspectd.errors import StorageError
from inspectd.messages import Image
from inspectd.terminal import PlainConsole

EXAMPLES = """examples:
  tools/simulated_line.py --out footage/capacitors --train 300 --good 1000 --defective 900
  tools/simulated_line.py --out /tmp/small --train 40 --good 20 --defective 27 --seed 7
  tools/simulated_line.py --sheet /tmp/sheet.png

The set holds train/good, test/good, test/<defect>, ground_truth/<defect>/<name>_mask.png, and metadata.csv
(file, label, severity, size_px). Defects go round the nine types and three severities, at sizes drawn from
3 to 15 px. Same seed and counts, same files."""

SHEET_SIZES_PX = (4.0, 8.0, 13.0)
SHEET_GOOD = 9


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to write: where to, which part of the line, and what is wrong with it."""

    folder: str
    name: str
    index: int
    defect: DefectSpec | None


def plan(seed: int, train: int, good: int, defective: int) -> list[Job]:
    """List the set's pictures; part numbers run on, so that no part appears twice."""
    jobs = [Job("train/good", f"{i:04d}", i, None) for i in range(train)]
    jobs += [Job("test/good", f"{i:04d}", train + i, None) for i in range(good)]
    sizes = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(train, good, defective)))
    kinds, severities = list(DefectType), list(Severity)
    for i in range(defective):
        kind, severity = kinds[i % len(kinds)], severities[i // len(kinds) % len(severities)]
        defect = DefectSpec(kind, severity, round(float(sizes.uniform(SMALLEST_PX, LARGEST_PX)), 1))
        jobs.append(Job(f"test/{kind.value}", f"{i // len(kinds):04d}", train + good + i, defect))
    return jobs


def write_set(out: Path, seed: int, jobs: Iterable[Job]) -> None:
    """Render and write the pictures, masks and metadata. Raises StorageError where a file cannot be written."""
    rows = []
    for job in jobs:
        part = render_part(seed, job.index, job.defect)
        file = f"{job.folder}/{job.name}.png"
        _write(out / file, part.image)
        if job.defect is not None:
            mask = f"ground_truth/{part.label}/{job.name}_mask.png"
            _write(out / mask, part.mask)
        rows.append((file, part.label, part.severity, f"{part.size_px:g}"))
    try:
        with (out / "metadata.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table)
            writer.writerow(("file", "label", "severity", "size_px"))
            writer.writerows(rows)
    except OSError as error:
        raise StorageError(f"{out / 'metadata.csv'}: cannot be written: {error.strerror}") from error


def draw_sheet(seed: int) -> Image:
    """One picture of everything: a row of good parts, then a row for each defect type, by severity and size."""
    columns = len(Severity) * len(SHEET_SIZES_PX)
    rows = [[render_part(seed, i).image for i in range(min(columns, SHEET_GOOD))]]
    index = SHEET_GOOD
    for kind in DefectType:
        row = []
        for severity in Severity:
            for size_px in SHEET_SIZES_PX:
                row.append(render_part(seed, index, DefectSpec(kind, severity, size_px)).image)
                index += 1
        rows.append(row)
    names = ["good", *(kind.value for kind in DefectType)]
    strips = [
        _captioned(np.hstack([_middle(image) for image in row]), name) for row, name in zip(rows, names, strict=True)
    ]
    return np.vstack(strips)


def _middle(image: Image) -> Image:
    return image[40:160, 30:210]


def _captioned(strip: Image, name: str) -> Image:
    bar = np.zeros((18, strip.shape[1], 3), np.uint8)
    cv2.putText(bar, name, (6, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (220, 220, 220), 1, cv2.LINE_AA)
    return np.vstack([bar, strip])


def _write(file: Path, image: Image) -> None:
    """Write an RGB image or a mask as PNG."""
    encoded = cv2.imencode(".png", image if image.ndim == 2 else image[..., ::-1])[1]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded.tobytes())
    except OSError as error:
        raise StorageError(f"{error.filename or file}: cannot be written: {error.strerror}") from error


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the set; must be new or empty")
    parser.add_argument("--train", type=whole(0), default=300, metavar="N", help="good parts to calibrate from (300)")
    parser.add_argument("--good", type=whole(0), default=100, metavar="N", help="good parts to test with (100)")
    parser.add_argument("--defective", type=whole(0), default=90, metavar="N", help="defective parts to test with (90)")
    parser.add_argument("--seed", type=seed, default=1, metavar="N", help="same seed, same parts (1)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also, or only, draw one picture of all defects")
    arguments = parser.parse_args(argv)
    if arguments.out is None and arguments.sheet is None:
        parser.error("nothing to do: give --out DIR, --sheet PNG or both")
    return arguments


def _run(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        out: Path = arguments.out
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StorageError(f"{out}: exists and is not an empty folder; choose another --out, or remove it first")
        jobs = plan(arguments.seed, arguments.train, arguments.good, arguments.defective)
        out.mkdir(parents=True, exist_ok=True)
        write_set(out, arguments.seed, track(jobs, "rendering parts", console=PlainConsole(stderr=True)))
        counts = f"{arguments.train} parts to train, {arguments.good} good and {arguments.defective} defective to test"
        print(f"{out}: {counts}")
    if arguments.sheet is not None:
        _write(arguments.sheet, draw_sheet(arguments.seed))
        print(f"{arguments.sheet}: good parts, and each defect type by severity (plain, moderate, faint) and size")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _arguments(argv)
    try:
        _run(arguments)
    except StorageError as error:
        print(f"simulated_line: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"simulated_line: {error.filename}: cannot be written: {error.strerror}", file=sys.stderr)
        return StorageError.exit_code
    except KeyboardInterrupt:
        print("simulated_line: interrupted; the set is incomplete, remove it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
