"""The unit file, as systemd itself reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "inspectd@.service"
MAX_EXPOSURE = 1.5

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="Debian's systemd package is not installed"
)


def test_unit_exposes_little() -> None:
    """systemd rates the unit's exposure at 1.5 or better."""
    report = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Overall exposure level.*?: ([0-9.]+)", report)
    assert found, report
    assert float(found[1]) <= MAX_EXPOSURE, report


def test_unit_is_clean(tmp_path: Path) -> None:
    """systemd finds nothing to complain about in the unit once its program is installed."""
    program = tmp_path / "inspectd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "inspectd@smdc.service"
    unit.write_text(UNIT.read_text().replace("/opt/inspectd/bin/inspectd", str(program)))
    verdict = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert verdict.returncode == 0
    assert verdict.stderr == ""
