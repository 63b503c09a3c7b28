"""The unit file, as systemd itself reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from inspectd.wire.connections import MOST

UNIT = Path(__file__).parents[2] / "systemd" / "inspectd@.service"
DROP_INS = UNIT.with_name(f"{UNIT.name}.d")
MAX_EXPOSURE = 1.5

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="Debian's systemd package is not installed"
)


def _service_lines(drop_in: str | None) -> str:
    """What a drop-in adds to the unit's service section."""
    return "" if drop_in is None else (DROP_INS / drop_in).read_text().partition("[Service]")[2]


@pytest.mark.parametrize("drop_in", [None, "realtime.conf.example"])
def test_unit_exposes_little(tmp_path: Path, drop_in: str | None) -> None:
    """systemd rates the unit's exposure at 1.5 or better, also with what real-time settings need."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("[Install]", f"{_service_lines(drop_in)}\n[Install]"))
    report = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Overall exposure level.*?: ([0-9.]+)", report)
    assert found, report
    assert float(found[1]) <= MAX_EXPOSURE, report


@pytest.mark.parametrize("drop_in", [None, "realtime.conf.example"])
def test_unit_is_clean(tmp_path: Path, drop_in: str | None) -> None:
    """systemd finds nothing to complain about in the unit once its program is installed."""
    program = tmp_path / "inspectd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "inspectd@smdc.service"
    text = UNIT.read_text().replace("[Install]", f"{_service_lines(drop_in)}\n[Install]")
    unit.write_text(text.replace("/opt/inspectd/bin/inspectd", str(program)))
    verdict = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert verdict.returncode == 0
    assert verdict.stderr == ""


def test_the_unit_lets_more_clients_in_than_the_daemon_takes() -> None:
    """Three endpoints with all the connections that they may have, twice, and as many more on the way."""
    (limit,) = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith("LimitNOFILE=")]
    assert int(limit) >= 3 * 4 * MOST + 1024


def test_faults_that_mend_themselves_do_not_end_the_station_for_good() -> None:
    """A camera that takes a minute to boot, a disk that is full for an hour: the unit is started until that is over.

    What a person must mend, by exit code, is left alone.
    """
    lines = UNIT.read_text().splitlines()
    assert "StartLimitIntervalSec=0" in lines
    assert "Restart=on-failure" in lines
    (prevented,) = [line.partition("=")[2].split() for line in lines if line.startswith("RestartPreventExitStatus=")]
    camera, port, storage, engine = 6, 7, 8, 9  # docs/exit_codes.md
    assert {camera, port, storage, engine}.isdisjoint(int(code) for code in prevented)
