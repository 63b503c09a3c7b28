"""`inspectd records verify`: says whether every record is as it was written, and where one is not."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from inspectd.exits import EXIT_NOT_PROVED
from inspectd.records.verify import Gap, Report, Verifier
from inspectd.terminal import progress_bar

LISTED = 50


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare the options that only `verify` takes."""
    group.add_argument("--skip-images", action="store_true", help="do not read the images, which takes the longest")
    group.add_argument(
        "--head", type=_head, metavar="ENTRY:HASH", help="the head that an earlier run of verify named; must still hold"
    )


def run(folder: Path, args: argparse.Namespace) -> int:
    """Verify; returns 0, or 15 where something does not hold. Raises StorageError."""
    with closing(Verifier(folder, images=not args.skip_images)) as verifier, progress_bar() as bar:
        task = bar.add_task("entries", total=verifier.entries())
        report = verifier.run(lambda entries: bar.advance(task, entries), head=args.head)
    if args.json:
        sys.stdout.write(json.dumps({"proved": not report.problem_count, **asdict(report)}) + "\n")
    else:
        _print(report)
    return EXIT_NOT_PROVED if report.problem_count else 0


def _print(report: Report) -> None:
    print(f"{report.parts} parts, numbers {report.first_seq} to {report.last_seq}; {report.entries} entries")
    if report.deleted_to_seq:
        print(f"retention deleted up to number {report.deleted_to_seq}; what is left begins with its last hash")
    print(
        f"{report.images} images as recorded, {report.images_deleted} deleted by retention, "
        f"{report.images_without_hash} from before images had a hash"
    )
    for gap in report.gaps[-LISTED:]:
        print(f"gap {_range(gap)}: {gap.why} (noted {_time(gap.wall_ns)})")
    if not report.stopped:
        print("the last run has not ended cleanly, or goes on: its newest numbers cannot be judged yet")
    for problem in report.problems[:LISTED]:
        print(f"PROBLEM {problem.text}")
    if report.problem_count > LISTED:
        print(f"... and {report.problem_count - LISTED} more; --json lists up to 1000")
    print(f"head {report.head_entry}:{report.head_hash}")
    print(f"NOT PROVED: {report.problem_count} problems" if report.problem_count else "proved")


def _range(gap: Gap) -> str:
    return f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}"


def _time(wall_ns: int) -> str:
    return datetime.datetime.fromtimestamp(wall_ns // 1_000_000_000, datetime.UTC).isoformat()


def _head(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
    if match is None:
        raise argparse.ArgumentTypeError("expected ENTRY:HASH as verify prints it in its line `head`")
    return int(match[1]), match[2]
