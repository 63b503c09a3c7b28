"""`inspectd records snapshot`: a copy of the database for other programs, which may keep it open."""

from __future__ import annotations

import argparse
from pathlib import Path

from inspectd.errors import UsageError
from inspectd.records.snapshot import snapshot
from inspectd.terminal import progress_bar


def run(folder: Path, args: argparse.Namespace) -> int:
    """Take it; returns 0. Raises UsageError, StorageError."""
    if args.out is None:
        raise UsageError("snapshot needs --out FILE.db")
    with progress_bar() as bar:
        task = bar.add_task("entries", total=None)
        taken = snapshot(folder, args.out, lambda entries: bar.advance(task, entries))
    print(f"{args.out}: {taken.parts} parts, head {taken.head_entry}:{taken.head_hash}")
    return 0
