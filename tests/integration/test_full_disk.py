"""A disk that fills while the daemon runs: a real small tmpfs, the real process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_station import NAME, TinyStation, inspectd

from inspectd.records.reading import RecordReader

DISK_KIB = 600
PARTS = 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 600 KiB, or a visible skip where mounting is not permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_verdicts_go_on_and_what_was_recorded_stays(
    tiny_station: TinyStation, small_disk: Path, tmp_path: Path
) -> None:
    """Every part is judged, the records that fitted are whole, and the run ends with code 8 and one line."""
    folder = str(small_disk / "records")
    settings = tiny_station.settings(tmp_path, records={"folder": folder, "passed_image_every": 1})
    (small_disk / "ballast").write_bytes(bytes((DISK_KIB - 300) * 1024))
    done = inspectd("run", "--station", str(settings), "--max-parts", str(PARTS), folder=tmp_path)
    assert done.returncode == 8, done.stderr[-2000:]
    assert "records could not be written" in done.stderr.splitlines()[-1]
    assert f'"triggers": {PARTS}' in done.stderr
    with RecordReader(small_disk / "records" / NAME) as reader:
        numbers = [part.verdict.seq for part in reader.all()]
    assert numbers
    assert numbers == list(range(1, len(numbers) + 1))
