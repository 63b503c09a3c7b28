"""Names that the GPU path uses, in the real bindings of TensorRT and the real PyCUDA, over stubs of their libraries.

The stubs answer nothing: that names, enums and parameters are there is all that this proves.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gpu_surface
import pytest

pytestmark = pytest.mark.gpu_path
TESTS = Path(__file__).resolve().parents[1]
PROGRAM = """
import ctypes, importlib, json, sys
for stub in sys.argv[3:]:
    ctypes.CDLL(stub, ctypes.RTLD_GLOBAL)
import gpu_surface
module = importlib.import_module(sys.argv[1])
lacks = gpu_surface.missing(module, sys.argv[2])
methods = {
    f"{where}.{name}": getattr(getattr(module, where), name).__doc__ or ""
    for where, names in gpu_surface.used(sys.argv[2]).items() if where.startswith("I") and "." not in where
    for name in names if callable(getattr(getattr(module, where), name, None))
}
print(json.dumps({"lacks": lacks, "methods": methods}))
"""


def stubs(extension: Path, folder: Path) -> list[str]:
    """A library for each that the extension needs and this machine lacks; each defines what the extension imports."""
    for tool in ("gcc", "nm", "objdump"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the stubs cannot be built")
    needed = re.findall(r"NEEDED\s+(lib(?:cuda|nv)\S+)", output("objdump", "-p", str(extension)))
    symbols = [line.split()[-1] for line in output("nm", "-D", "--undefined-only", str(extension)).splitlines()]
    ours = [
        name
        for name in symbols
        if re.fullmatch(r"cu[A-Z]\w+|\w+_INTERNAL|get\w+(Registry|Version)|init\w+Plugins", name)
    ]
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in ours))
    built = []
    for name in needed or ["libcuda.so.1"]:  # PyCUDA built against a stub does not say that it needs it
        built.append(str(folder / name))
        output("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", built[-1], str(source))
    return built


def output(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def look(module: str, package: str, extension: str, folder: Path) -> dict[str, dict[str, str]]:
    """Import the module in a process of its own, over stubs; what it lacks, and its methods' documentation."""
    found = importlib.util.find_spec(module.partition(".")[0])
    if found is None or found.origin is None:
        pytest.skip(f"{module} is not installed")
    library = next(Path(found.origin).parent.glob(extension))
    command = [sys.executable, "-c", PROGRAM, module, package, *stubs(library, folder)]
    path = f"{TESTS.parent}:{TESTS}:{Path(found.origin).parents[1]}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": path, "PATH": "/usr/bin"}
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, str]] = json.loads(done.stdout)
    return told


def test_tensorrt(tmp_path: Path) -> None:
    """The bindings of TensorRT have every name, and their methods take what surface.py says."""
    told = look("tensorrt_bindings", gpu_surface.TENSORRT, "tensorrt.so", tmp_path)
    assert told["lacks"] == []
    assert "name: str, memory:" in told["methods"]["IExecutionContext.set_tensor_address"]
    assert "stream_handle:" in told["methods"]["IExecutionContext.execute_async_v3"]
    assert "index:" in told["methods"]["ICudaEngine.get_tensor_name"]


def test_pycuda(tmp_path: Path) -> None:
    """PyCUDA has every name."""
    assert look("pycuda.driver", gpu_surface.DRIVER, "_driver*.so", tmp_path)["lacks"] == []
