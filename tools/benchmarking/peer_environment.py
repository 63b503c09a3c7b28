"""The virtual environment with anomalib, and programs that run in it or beside it: peers.py measures by them.

It is made here, and it never touches the project's own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarking.steps import TOOLS, Row, StepFailed, Tell, TookTooLong, follow, last_line
from inspectd.errors import StorageError

ANOMALIB = "anomalib==2.7.*"
MARKER = "made-by-inspectd.json"


def make_environment(folder: Path, log: Path) -> Path:
    """The Python of a virtual environment with anomalib; made once, from the package index. Blocks for a minute.

    The project's own packages (torch, OpenCV, ...) are seen from there, and only what they lack, or have in a version
    that does not fit, is installed into `folder`. Raises StepFailed with pip's last line, StorageError.
    """
    python = folder / "bin" / "python"
    made_for = {"anomalib": ANOMALIB, "python": sys.version, "torch": importlib.metadata.version("torch")}
    marker = folder / MARKER
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_for:
        return python
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise StorageError(f"{folder}: is no virtual environment; name another --work")
    try:
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        inner = next((folder / "lib").glob("python*")) / "site-packages"
        inner.joinpath("inspectd_project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror or error}") from error
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", ANOMALIB]
    with log.open("w", encoding="utf-8") as said:
        done = subprocess.run(command, stdout=said, stderr=said, check=False)  # noqa: S603
    if done.returncode != 0:
        raise StepFailed(f"pip install {ANOMALIB}: {last_line(log)}; see {log}")
    marker.write_text(json.dumps(made_for), encoding="utf-8")
    return python


def answer_of(command: Sequence[str], log: Path, tell: Tell, most_s: float | None) -> Row:
    """The object that a program prints last. Raises TookTooLong, StepFailed with its own last line and its log."""
    try:
        found = follow(command, log, tell, environment=one_thread(), folder=TOOLS.parent, most_s=most_s)
    except TookTooLong:
        raise
    except StepFailed as error:
        raise StepFailed(str(error) if str(log) in str(error) else f"{error}; see {log}") from error
    if found is None:
        raise StepFailed(f"{command[1]} ended without an answer; see {log}")
    return found


def one_thread() -> dict[str, str]:
    """The environment of a program with this checkout's modules and one thread, which fetches nothing."""
    limits = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **limits, "PYTHONPATH": f"{TOOLS.parent}{os.pathsep}{TOOLS}"}
