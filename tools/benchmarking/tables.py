"""The tables of the page of results: what rows reached beside the paper's figures, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarking.machine import markdown_table
from benchmarking.plan import RowSettings
from benchmarking.results import Entry
from benchmarking.steps import Row, rate_text

QUALITY = (
    ("image_auroc", "image AUROC"),
    ("pixel_auroc", "pixel AUROC"),
    ("pro", "PRO"),
    ("fpr_at_95tpr", "FPR@95TPR"),
    ("tpr_at_10fpr", "TPR@10FPR"),
)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table, with what was measured for it: one entry for each category of its data."""

    row: RowSettings
    entries: tuple[Entry, ...]

    @property
    def measured(self) -> list[Row]:
        """The rows that have figures."""
        return [entry.row for entry in self.entries if entry.row is not None and "failed" not in entry.row]

    @property
    def whole(self) -> bool:
        """Every category has figures: a mean over some of them would be another figure."""
        return bool(self.entries) and len(self.measured) == len(self.entries)

    def mean(self, name: str) -> float | None:
        """Of a figure over the categories, None where one lacks it."""
        values = [row.get(name) for row in self.measured]
        known = [float(value) for value in values if value is not None]
        return fmean(known) if self.whole and len(known) == len(values) else None


def quality_table(table_rows: Sequence[TableRow]) -> str:
    """One column a figure, and the paper's beside it where any row has one."""
    head, columns = ["row", "data", "good / defective"], []
    for name, title in QUALITY:
        known = any(
            table_row.row.paper is not None and getattr(table_row.row.paper, name) is not None
            for table_row in table_rows
        )
        head += [title, "paper"] if known else [title]
        columns.append((name, known))
    body = []
    for table_row in table_rows:
        counts = (sum(row["good"] for row in table_row.measured), sum(row["defective"] for row in table_row.measured))
        cells = [table_row.row.name, _data(table_row), f"{counts[0]} / {counts[1]}"]
        for name, known in columns:
            cells.append(_figure(table_row, name))
            if known:
                cells.append(_number(None if table_row.row.paper is None else getattr(table_row.row.paper, name)))
        body.append(cells)
    return markdown_table(head, body)


def cost_table(table_rows: Sequence[TableRow]) -> str:
    """How it was made, and what a line would see: rejects counted and promised, escapes."""
    head = ("row", "data", "teachers", "schedule", "calibrated in s", "false rejects", "promised", "escapes")
    body = []
    for table_row in table_rows:
        rejects, escapes = _rates(table_row, "false_reject"), _rates(table_row, "escape")
        made = (_each(table_row, _teachers), _each(table_row, _schedule), _took(table_row))
        body.append((table_row.row.name, _data(table_row), *made, rejects, _promised(table_row), escapes))
    return markdown_table(head, body)


def engine_table(table_rows: Sequence[TableRow]) -> str:
    """Milliseconds of the engine that was kept and of each precision's, and the image AUROC lost against f32."""
    found = {one["precision"] for table_row in table_rows for row in table_row.measured for one in row["engines"]}
    names = [None, *(name for name in ("f32", "bf16", "int8") if name in found)]
    compared = [name for name in names if name != "f32"]
    head = ["row", "data", "kept", *(f"{name or 'kept'} ms" for name in names)]
    head += [f"lost by {name or 'kept'}" for name in compared]
    body = []
    for table_row in table_rows:
        kept = dict.fromkeys(one["precision"] for row in table_row.measured for one in row["engines"] if one["kept"])
        cells = [table_row.row.name, _data(table_row), "; ".join(kept)]
        cells += [_number(_engine_mean(table_row, name, "median_ms"), 2) for name in names]
        reference = _engine_mean(table_row, "f32", "image_auroc")
        for name in compared:
            lost = _difference(reference, _engine_mean(table_row, name, "image_auroc"))
            cells.append(_signed(lost))
        body.append(cells)
    return markdown_table(head, body)


def _engine_mean(table_row: TableRow, precision: str | None, figure: str) -> float | None:
    """Over the categories, of the engine of this precision, None: the kept one; None where one has none."""
    values = [
        one[figure]
        for row in table_row.measured
        for one in row["engines"]
        if (one["kept"] if precision is None else one["precision"] == precision)
    ]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(table_row.entries) else None


def directions(table_rows: Sequence[TableRow]) -> str:
    """What an ablation changes, here and in the paper; nothing where no row is against another."""
    by_name = {table_row.row.name: table_row for table_row in table_rows}
    body = []
    for table_row in table_rows:
        other = by_name.get(table_row.row.against or "")
        if other is None or not (table_row.whole and other.whole):
            continue
        ours = _difference(table_row.mean("image_auroc"), other.mean("image_auroc"))
        theirs = _difference(
            *(None if one.row.paper is None else one.row.paper.image_auroc for one in (table_row, other))
        )
        same = "-" if ours is None or theirs is None else ("yes" if ours * theirs > 0 else "no")
        body.append((table_row.row.name, other.row.name, _signed(ours), _signed(theirs), same))
    if not body:
        return ""
    return markdown_table(("row", "against", "image AUROC changes by", "in the paper by", "same direction"), body)


def category_table(table_rows: Sequence[TableRow]) -> str:
    """Each category of the rows that are means over several; nothing where there is none."""
    body = [
        (table_row.row.name, entry.job.category, *(_number(row[name]) for name, _ in QUALITY), rate_text(row, "escape"))
        for table_row in table_rows
        if len(table_row.entries) > 1
        for entry, row in zip(table_row.entries, table_row.measured, strict=True)
    ]
    return markdown_table(("row", "category", *(title for _, title in QUALITY), "escapes"), body) if body else ""


def group_table(table_row: TableRow, group: str) -> str:
    """One table for each set of the line that has such groups."""
    tables = []
    for entry, row in zip(table_row.entries, table_row.measured, strict=True):
        groups: Mapping[str, Any] = row[group]
        if len(groups) > 1:
            head = (
                f"{entry.job.name}, {group.replace('_', ' ')}",
                "parts",
                *(title for _, title in QUALITY),
                "escapes",
            )
            body = []
            for name, found in groups.items():
                figures = (_number(found[one]) for one, _ in QUALITY)
                body.append((name, str(found["defective"]), *figures, rate_text(found, "escape")))
            tables.append(markdown_table(head, body))
    return "\n\n".join(tables)


def _figure(table_row: TableRow, name: str) -> str:
    value = table_row.mean(name)
    if value is None:
        return "-"
    if len(table_row.entries) > 1:
        low, high = (pick(row[name] for row in table_row.measured) for pick in (min, max))
    else:
        interval = table_row.measured[0].get(f"{name}_interval")
        if interval is None:
            return f"{value:.4f}"
        low, high = interval
    return f"{value:.4f} ({low:.3f} to {high:.3f})"


def _rates(table_row: TableRow, what: str) -> str:
    """Counts over all categories together."""
    if len(table_row.measured) == 1:
        return rate_text(table_row.measured[0], what)
    counted = sum(row["false_rejects" if what == "false_reject" else "escapes"] for row in table_row.measured)
    whole = sum(row["good" if what == "false_reject" else "defective"] for row in table_row.measured)
    return f"{counted} of {whole}, {counted / whole:.1%}" if whole else "-"


def _promised(table_row: TableRow) -> str:
    low = min(row["promised"][0] for row in table_row.measured)
    high = max(row["promised"][1] for row in table_row.measured)
    return f"{low:.1%} to {high:.1%}"


def _each(table_row: TableRow, say: Callable[[Row], str]) -> str:
    """What is said of the rows, once where they agree."""
    return ", ".join(dict.fromkeys(say(row) for row in table_row.measured))


def _teachers(row: Row) -> str:
    model = row["settings"]["model"]
    names = " + ".join(model["teachers"])
    return f"{names}, untrained" if model["random_teachers"] else names


def _schedule(row: Row) -> str:
    """'150 x 16, adam 0.001': of student and, where there is one, decoder; the discriminator's schedule is its own."""
    if row["settings"]["model"].get("score") == "memory":
        return "nothing trained"
    settings = row["settings"]
    training = settings["model"][settings["preset"]]
    decoder = f" + {training['decoder_steps']}" if settings["model"]["decoder"] else ""
    return f"{training['steps']}{decoder} x {training['batch']}, {training['optimiser']} {training['learning_rate']:g}"


def _took(table_row: TableRow) -> str:
    taken = [row["calibration_s"] for row in table_row.measured]
    sign = "> " if any(row["resumed"] for row in table_row.measured) else ""
    return sign + (f"{taken[0]:.0f}" if len(taken) == 1 else f"{min(taken):.0f} to {max(taken):.0f}")


def _data(table_row: TableRow) -> str:
    return table_row.row.data if len(table_row.entries) <= 1 else f"{table_row.row.data} ({len(table_row.entries)})"


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
