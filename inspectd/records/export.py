"""A station's records as one Parquet or CSV file for those who evaluate them elsewhere; written in bounded memory."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspectd.errors import StorageError, UsageError
from inspectd.records.rows import StoredPart

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 10_000
Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name with its unit, its Arrow type, and where its value comes from."""

    name: str
    type: str
    read: Callable[[StoredPart], Any]


def _utc_us(part: StoredPart, at_ns: int) -> int | None:
    """A monotonic time of a part as microseconds since 1970; None for a step that did not happen."""
    verdict = part.verdict
    return (verdict.trigger_wall_ns + at_ns - verdict.trigger_ns) // 1000 if at_ns else None


def _ms(begin_ns: int, end_ns: int) -> float | None:
    return (end_ns - begin_ns) / 1e6 if begin_ns and end_ns else None


COLUMNS = (
    Column("station", "text", lambda part: part.verdict.station),
    Column("seq", "int", lambda part: part.verdict.seq),
    Column("part_id", "text", lambda part: part.verdict.part_id),
    Column("triggered_at_utc", "time", lambda part: part.verdict.trigger_wall_ns // 1000),
    Column("captured_at_utc", "time", lambda part: _utc_us(part, part.verdict.captured_ns)),
    Column("scored_at_utc", "time", lambda part: _utc_us(part, part.verdict.scored_ns)),
    Column("decided_at_utc", "time", lambda part: _utc_us(part, part.verdict.verdict_ns)),
    Column("due_at_utc", "time", lambda part: _utc_us(part, part.verdict.deadline_ns)),
    Column("latency_ms", "float", lambda part: _ms(part.verdict.trigger_ns, part.verdict.verdict_ns)),
    Column("capture_ms", "float", lambda part: _ms(part.verdict.trigger_ns, part.verdict.captured_ns)),
    Column("locate_ms", "float", lambda part: _ms(part.verdict.captured_ns, part.verdict.located_ns)),
    Column("engine_ms", "float", lambda part: _ms(part.verdict.located_ns, part.verdict.scored_ns)),
    Column("verdict", "text", lambda part: part.verdict.outcome.value),
    Column("reason", "text", lambda part: part.verdict.reason.value),
    Column("detail", "text", lambda part: part.verdict.detail),
    Column("action", "text", lambda part: part.verdict.action.value),
    Column("part_score", "float", lambda part: part.verdict.part_score),
    Column("part_limit", "float", lambda part: part.verdict.thresholds.part),
    Column("region_scores", "scores", lambda part: part.verdict.region_scores),
    Column("region_limits", "scores", lambda part: part.verdict.thresholds.regions),
    Column("late_part_score", "float", lambda part: part.late and part.late.part_score),
    Column("late_region_scores", "scores", lambda part: part.late and part.late.region_scores),
    Column("pose_x_px", "float", lambda part: part.pose and part.pose.x_px),
    Column("pose_y_px", "float", lambda part: part.pose and part.pose.y_px),
    Column("pose_angle_deg", "float", lambda part: part.pose and part.pose.angle_deg),
    Column("pose_scale", "float", lambda part: part.pose and part.pose.scale),
    Column("brightness", "float", lambda part: part.brightness),
    Column("sharpness", "float", lambda part: part.sharpness),
    Column("encoder_counts", "int", lambda part: part.verdict.encoder),
    Column("reject_command", "text", lambda part: part.verdict.reject and part.verdict.reject.command.value),
    Column("label", "text", lambda part: part.verdict.label),
    Column("source", "text", lambda part: part.source),
    Column("image", "text", lambda part: part.image),
    Column("bundle_hash", "text", lambda part: part.verdict.bundle_hash),
)


def export(parts: Iterable[StoredPart], out: Path, station: str, advance: Callable[[int], None]) -> int:
    """Write `out` (.parquet or .csv), whole or not at all; returns how many parts. Blocks for the disk.

    `advance` is told how many parts were written. Raises UsageError for another ending or where pyarrow is missing,
    StorageError where `out` cannot be written or a record cannot be read.
    """
    write = {".parquet": _write_parquet, ".csv": _write_csv}.get(out.suffix)
    if write is None:
        raise UsageError(f"{out}: the name must end in .parquet or .csv")
    temporary = out.with_name(f".{out.name}.part")
    try:
        count = write(_groups(parts, advance), temporary, station)
        os.replace(temporary, out)  # noqa: PTH105 - replaces
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _groups(parts: Iterable[StoredPart], advance: Callable[[int], None]) -> Iterator[list[StoredPart]]:
    group: list[StoredPart] = []
    for part in parts:
        group.append(part)
        if len(group) == ROW_GROUP:
            yield group
            advance(len(group))
            group = []
    yield group
    advance(len(group))


def _write_parquet(groups: Iterator[list[StoredPart]], out: Path, station: str) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install 'inspectd[export]', or export to a .csv") from error
    schema = pyarrow.schema([(column.name, _arrow_type(column.type)) for column in COLUMNS])
    schema = schema.with_metadata({"inspectd.version": version("inspectd"), "inspectd.station": station})
    bundles: set[str] = set()
    count = 0
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        for group in groups:
            columns = [
                pyarrow.array([column.read(part) for part in group], _arrow_type(column.type)) for column in COLUMNS
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            bundles |= {part.verdict.bundle_hash for part in group}
            count += len(group)
        writer.add_key_value_metadata({"inspectd.bundles": json.dumps(sorted(bundles)), "inspectd.parts": str(count)})
    return count


def _arrow_type(name: str) -> pyarrow.DataType:
    import pyarrow

    types: dict[str, pyarrow.DataType] = {
        "text": pyarrow.string(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "time": pyarrow.timestamp("us", tz="UTC"),
        "scores": pyarrow.map_(pyarrow.string(), pyarrow.float64()),
    }
    return types[name]


def _write_csv(groups: Iterator[list[StoredPart]], out: Path, station: str) -> int:
    """Times in microseconds since 1970, scores as JSON."""
    count = 0
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([f"{column.name}_us" if column.type == "time" else column.name for column in COLUMNS])
        for group in groups:
            writer.writerows([_cell(column, part) for column in COLUMNS] for part in group)
            count += len(group)
    return count


def _cell(column: Column, part: StoredPart) -> Cell:
    value = column.read(part)
    if column.type == "scores":
        return None if value is None else json.dumps(dict(value))
    found: Cell = value
    return found
