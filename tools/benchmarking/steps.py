"""What the measurements of accuracy share: programs run as a user runs them, rendered sets, rows that are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.progress import Progress, TaskID

from inspectd.errors import InspectdError, StorageError

LOG_TAIL = 4000

Row = dict[str, Any]
TOOLS = Path(__file__).parents[1]
SCORES, ROC, LAMBDAS, MAPS = "scores.png", "roc.png", "lambdas.png", "maps.png"
Tell = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""
PICTURES = (SCORES, ROC, LAMBDAS, MAPS)
"""What is drawn of a row, in the order of the page; MAPS alone shows images of the data."""


class StepFailed(InspectdError):
    """A program that the benchmark ran did not end well; its own line says why."""


def shown_on(bars: Progress, step: TaskID) -> Tell:
    """Progress of a program as this bar."""

    def tell(what: str, done: int, total: int) -> None:
        bars.update(step, description=f"  {what}", completed=done, total=total)

    return tell


class TookTooLong(StepFailed):
    """A program was ended because it had not finished in the time that it was given."""


@contextmanager
def owned_process(
    command: Sequence[str],
    errors: IO[str],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A program whose output is read line by line; it never outlives the block.

    environment, folder: None: those of this program.
    """
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=folder
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def follow(
    command: Sequence[str],
    log: Path,
    tell: Tell,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    most_s: float | None = None,
) -> Row | None:
    """Run a program to its end: its lists [what, done, total] are progress, its last JSON object is the answer.

    environment, folder: None: those of this program. most_s: seconds after which it is ended. What else it prints goes
    to `log`, as its errors do. Raises TookTooLong, StepFailed with its own last line.
    """
    found: Row | None = None
    ended_by_us = threading.Event()
    with (
        log.open("w", encoding="utf-8") as errors,
        owned_process(command, errors, environment, folder) as process,
    ):

        def end() -> None:
            ended_by_us.set()
            process.kill()

        timer = threading.Timer(most_s or 0, end)
        timer.daemon = True  # Ctrl-C while it starts must not keep the program until it fires
        try:
            if most_s is not None:
                timer.start()
            for text in process.stdout or ():
                line = _json_of(text)
                if isinstance(line, dict):
                    found = line
                elif isinstance(line, list) and len(line) == 3:
                    tell(*line)
                else:  # a library that prints
                    errors.write(text)
            code = process.wait()
        finally:
            timer.cancel()
    if ended_by_us.is_set():
        raise TookTooLong(f"not finished in {most_s:g} s")
    if code != 0:
        raise StepFailed(last_line(log) or f"its process ended with code {code}; see {log}")
    return found


def _json_of(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def last_line(log: Path) -> str:
    """What a program said last, without its name; empty where it said nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip().splitlines()
    return lines[-1].removeprefix("benchmark: ") if lines else ""


def run_python(arguments: Sequence[str], folder: Path) -> str:
    """Run Python in `folder` and return its standard output; its progress goes to our standard error. Blocks.

    Raises StepFailed with the command.
    """
    done = subprocess.run([sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise StepFailed(f"{' '.join(arguments)}: ended with code {done.returncode}")
    return done.stdout


def render_simulated(work: Path, *, train: int, good: int, defective: int, seed: int = 1) -> Path:
    """The simulated line's set of this size below `work`, rendered once; an unfinished one is never taken for it.

    Blocks for seconds to minutes. Raises StorageError, StepFailed.
    """
    name = f"simulated-{train}-{good}-{defective}"
    folder = work / (name if seed == 1 else f"{name}-seed{seed}")
    if (folder / "metadata.csv").is_file():  # written last
        return folder
    if folder.exists():
        raise StorageError(f"{folder}: is incomplete; remove it")
    counts = ("--train", train, "--good", good, "--defective", defective, "--seed", seed)
    run_python([str(TOOLS / "simulated_line.py"), "--out", str(folder), *map(str, counts)], work)
    return folder


def read_rows(out: Path, needed: Sequence[str]) -> list[Row]:
    """The rows finished so far, each with the `needed` names. Raises StorageError for a file that is not ours."""
    if not out.is_file():
        return []
    try:
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
        return [dict(row) for row in rows if all(row[name] for name in needed)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{out}: is not what this benchmark writes; name another --out") from error


def write_rows(out: Path, rows: Sequence[Row]) -> None:
    """Replace the file of rows at once. Raises StorageError."""
    write_text(out, json.dumps({"rows": list(rows)}, indent=1))


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once: whoever reads it finds the old or the new one. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - replaces
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def rate_text(figures: Mapping[str, Any], what: str) -> str:
    """'2 of 16, 12.5% (1.6% to 38.3%)' of what is 'false_reject' or 'escape'; '-' where the set cannot say it."""
    rate, interval = figures[f"{what}_rate"], figures[f"{what}_interval"]
    if rate is None or interval is None:
        return "-"
    counted = figures["false_rejects" if what == "false_reject" else "escapes"]
    whole = figures["good" if what == "false_reject" else "defective"]
    return f"{counted} of {whole}, {rate:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
