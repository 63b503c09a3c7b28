"""A flame graph of a running daemon, by py-spy: which lines of Python its threads are at, many times a second."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarking.daemon import BenchmarkError, last_line
from inspectd.errors import SettingsError

RATE_HZ = 500
FORMATS = {".svg": "flamegraph", ".json": "speedscope", ".txt": "raw"}
ENDS_WITHIN_S = 60.0


def sampler() -> str:
    """Where py-spy is: beside this Python, or on the path. Raises SettingsError."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise SettingsError("benchmark line --profile needs py-spy: pip install 'inspectd[dev]'")
    return found


def sampling_format(file: Path) -> str:
    """What py-spy calls the format of a file of this name. Raises SettingsError."""
    if file.suffix not in FORMATS:
        kinds = ", ".join(f"{suffix} ({name})" for suffix, name in FORMATS.items())
        raise SettingsError(f"--profile {file}: the name decides the format, and ends with one of {kinds}")
    return FORMATS[file.suffix]


@contextmanager
def sampled(pid: int, file: Path, log: Path) -> Iterator[None]:
    """Sample a process in the block, and write `file` at its end; it is not stopped for a sample, so few are torn.

    Raises SettingsError where py-spy is missing or the file's name says no format, BenchmarkError where it fails.
    """
    command = [sampler(), "record", "--pid", str(pid), "--rate", str(RATE_HZ), "--nonblocking", "--threads"]
    command += ["--format", sampling_format(file), "--output", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - a profiler, no shell
        try:
            yield
            process.send_signal(signal.SIGINT)
            process.wait(ENDS_WITHIN_S)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if not file.is_file():
        raise BenchmarkError(f"py-spy made no {file}: {last_line(log)}")
