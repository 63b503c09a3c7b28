"""Export: what others read of the records, as Parquet and CSV files."""

from __future__ import annotations

import csv
import datetime
import json
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from line_values import BUNDLE_HASH, MS, settings, verdict

from inspectd.__main__ import main
from inspectd.messages import LateScores, Outcome, Pose, Record
from inspectd.records import export as module
from inspectd.records.ledger import Ledger

WALL_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 1_000_000_000
DAY = datetime.datetime.fromtimestamp(WALL_NS / 1e9, datetime.UTC)


@pytest.fixture
def station(tmp_path: Path) -> list[str]:
    """Command-line arguments of a station with three parts, a day apart; the last one late."""
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    late = LateScores(seq=3, part_id="p3", part_score=0.75, region_scores=(("body", 0.5),), scored_ns=99 * MS)
    with closing(Ledger(tmp_path / "records" / "test")) as ledger:
        ledger.write(
            [
                Record(verdict=verdict(1, wall_ns=WALL_NS), pose=Pose(x_px=1.5, y_px=2, angle_deg=3, scale=1)),
                Record(verdict=verdict(2, Outcome.REJECT, wall_ns=WALL_NS + DAY_NS), source="cam/2"),
                Record(verdict=verdict(3, Outcome.INVALID, wall_ns=WALL_NS + 2 * DAY_NS)),
                late,
            ]
        )
    return ["records", "export", "--station", str(path)]


def test_parquet_has_typed_columns_and_says_where_it_is_from(
    station: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row a part, times as UTC timestamps, scores by region, in row groups; station, bundles and version in it."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'inspectd[export]'")
    monkeypatch.setattr(module, "ROW_GROUP", 2)
    out = tmp_path / "out.parquet"
    assert main([*station, "--out", str(out)]) == 0
    file = parquet.ParquetFile(out)
    assert file.metadata.num_row_groups == 2
    table = file.read()
    assert table.column("seq").to_pylist() == [1, 2, 3]
    assert table.column("verdict").to_pylist() == ["PASS", "REJECT", "INVALID"]
    assert table.column("triggered_at_utc").to_pylist() == [DAY + datetime.timedelta(days=days) for days in range(3)]
    assert table.column("latency_ms").to_pylist() == [6.0, 6.0, 6.0]
    assert table.column("engine_ms").to_pylist() == [3.0, 3.0, None]
    assert dict(table.column("region_scores").to_pylist()[0])["body"] == 0.25
    assert table.column("late_part_score").to_pylist() == [None, None, 0.75]
    assert table.column("pose_x_px").to_pylist() == [1.5, None, None]
    assert {column.name for column in module.COLUMNS} == set(table.column_names)
    metadata = file.metadata.metadata
    assert metadata[b"inspectd.station"] == b"test"
    assert json.loads(metadata[b"inspectd.bundles"]) == [BUNDLE_HASH]
    assert metadata[b"inspectd.parts"] == b"3"
    assert b"inspectd.version" in metadata


def test_a_span_of_time_is_exported_from_its_beginning_to_before_its_end(station: list[str], tmp_path: Path) -> None:
    """--from is in it, --to is not; CSV has the same columns."""
    out = tmp_path / "out.csv"
    since, until = (DAY + datetime.timedelta(days=days) for days in (1, 2))
    assert main([*station, "--out", str(out), "--from", since.isoformat(), "--to", until.isoformat()]) == 0
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["seq"], row["verdict"], row["source"]) == ("2", "REJECT", "cam/2")
    assert int(row["triggered_at_utc_us"]) == (WALL_NS + DAY_NS) // 1000
    assert json.loads(row["region_limits"])["body"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out"),
        (["--out", "x.xlsx"], ".parquet or .csv"),
        (["--out", "nowhere/x.csv"], "nowhere/x.csv: cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    station: list[str], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing or impossible --out says what is wanted, and leaves nothing behind."""
    assert main([*station, *arguments]) in {2, 8}
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_without_pyarrow_one_line_says_what_to_install(
    station: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base installation stays small: Parquet is an extra, CSV always works."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main([*station, "--out", str(tmp_path / "out.parquet")]) == 2
    assert "pip install 'inspectd[export]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet*"))
    assert main([*station, "--out", str(tmp_path / "out.csv")]) == 0
