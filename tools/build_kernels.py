#!/usr/bin/env python3
"""Compile the CUDA kernels into the fat binary that the wheel ships, and refuse one that is slow by construction."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.kernels.image import ARCHITECTURES, SOURCE, fat_binary_path

MOST_REGISTERS = 64
"""Per thread: two blocks of 512 threads fit on a multiprocessor of each architecture."""
WARNINGS = ("-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror")
USAGE = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<more>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kernel takes on one architecture: registers per thread, bytes of local and of static shared memory."""

    kernel: str
    architecture: str
    registers: int
    local_bytes: int
    shared_bytes: int

    @property
    def within_limits(self) -> bool:
        """Few enough registers, nothing spilled, no shared memory but the launch's."""
        return self.registers <= MOST_REGISTERS and self.local_bytes == 0 and self.shared_bytes == 0

    def __str__(self) -> str:
        """For people."""
        return (
            f"{self.kernel} {self.architecture}: {self.registers} registers, {self.local_bytes} bytes local, "
            f"{self.shared_bytes} bytes static shared"
        )


def find_nvcc() -> Path | None:
    """The compiler: on the path, or of the wheel `nvidia-cuda-nvcc`."""
    on_path = shutil.which("nvcc")
    if on_path is not None:
        return Path(on_path)
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    return next((nvcc for folder in folders for nvcc in sorted(folder.glob("*/bin/nvcc"))), None)


def build(nvcc: Path, source: Path, target: Path) -> list[Usage]:
    """Compile `source` for all architectures, and PTX of the first for any other; what each kernel takes on each.

    Blocks for some seconds. Raises subprocess.CalledProcessError, whose stderr holds the compiler's words.
    """
    codes = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in ARCHITECTURES]
    codes.append(f"-gencode=arch=compute_{ARCHITECTURES[0]},code=compute_{ARCHITECTURES[0]}")
    command = [str(nvcc), "-fatbin", "-O3", *WARNINGS, *codes, "-o", str(target), str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return list(usages(done.stderr + done.stdout))


def usages(said: str) -> Iterator[Usage]:
    """Read what ptxas -v said."""
    for found in USAGE.finditer(said):
        shared = re.search(r"(\d+) bytes smem", found["more"])
        local = sum(int(found[name]) for name in ("stack", "stores", "loads"))
        yield Usage(
            found["kernel"], found["architecture"], int(found["registers"]), local, int(shared[1]) if shared else 0
        )


def main() -> int:
    """Build into the package, or where --out says; 1 where the compiler or a limit refuses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="the kernels (default: the package's)")
    parser.add_argument("--out", type=Path, default=SOURCE.parent, help="folder (default: the package's)")
    options = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        return refuse("nvcc was not found: install the CUDA toolkit, or pip install 'inspectd[gpu-checks]'")
    target: Path = options.out / fat_binary_path().name
    draft = target.with_suffix(".draft")
    try:
        found = build(nvcc, options.source, draft)
    except subprocess.CalledProcessError as error:
        return refuse(f"{error.stderr}{options.source} does not compile")
    print(*found, sep="\n")
    over = "; ".join(str(usage) for usage in found if not usage.within_limits)
    if over or not found:
        draft.unlink()
        return refuse(f"over the limits ({MOST_REGISTERS} registers, no local and no static shared memory): {over}")
    for older in options.out.glob(f"{SOURCE.stem}-*.fatbin"):
        older.unlink()
    draft.replace(target)
    print(target)
    return 0


def refuse(reason: str) -> int:
    """Say why on stderr; the exit code."""
    print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
