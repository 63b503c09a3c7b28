"""The tables of the page of results: what rows reached beside the paper's figures, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarking.machine import markdown_table
from benchmarking.plan import RowSettings
from benchmarking.results import Slot
from benchmarking.steps import Row, rate_text

QUALITY = (
    ("image_auroc", "image AUROC"),
    ("pixel_auroc", "pixel AUROC"),
    ("pro", "PRO"),
    ("fpr_at_95tpr", "FPR@95TPR"),
    ("tpr_at_10fpr", "TPR@10FPR"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table, with what was measured for it: one entry for each category of its data."""

    row: RowSettings
    slots: tuple[Slot, ...]

    @property
    def measured(self) -> list[Row]:
        """The rows that have figures."""
        return [slot.row for slot in self.slots if slot.row is not None and "failed" not in slot.row]

    @property
    def whole(self) -> bool:
        """Every category has figures: a mean over some of them would be another figure."""
        return bool(self.slots) and len(self.measured) == len(self.slots)

    def mean(self, name: str) -> float | None:
        """Of a figure over the categories, None where one lacks it."""
        values = [row.get(name) for row in self.measured]
        known = [float(value) for value in values if value is not None]
        return fmean(known) if self.whole and len(known) == len(values) else None


def quality_table(lines: Sequence[Line]) -> str:
    """One column a figure, and the paper's beside it where any row has one."""
    head, columns = ["row", "data", "good / defective"], []
    for name, title in QUALITY:
        known = any(line.row.paper is not None and getattr(line.row.paper, name) is not None for line in lines)
        head += [title, "paper"] if known else [title]
        columns.append((name, known))
    body = []
    for line in lines:
        counts = (sum(row["good"] for row in line.measured), sum(row["defective"] for row in line.measured))
        cells = [line.row.name, _data(line), f"{counts[0]} / {counts[1]}"]
        for name, known in columns:
            cells.append(_figure(line, name))
            if known:
                cells.append(_number(None if line.row.paper is None else getattr(line.row.paper, name)))
        body.append(cells)
    return markdown_table(head, body)


def cost_table(lines: Sequence[Line]) -> str:
    """How it was made, and what the line would see: rejects counted and promised, escapes."""
    head = ("row", "data", "teachers", "steps x batch", "calibrated in s", "false rejects", "promised", "escapes")
    body = []
    for line in lines:
        rejects, escapes = _rates(line, "false_reject"), _rates(line, "escape")
        made = (_each(line, _teachers), _each(line, _steps), _took(line))
        body.append((line.row.name, _data(line), *made, rejects, _promised(line), escapes))
    return markdown_table(head, body)


def engine_table(lines: Sequence[Line]) -> str:
    """Milliseconds of each precision's engine, and the AUROC that it loses against f32."""
    names = sorted({one["precision"] for line in lines for row in line.measured for one in row["engines"]}, key=_order)
    plain = [name for name in names if name in {"f32", "bf16", "int8"}]
    head = ["row", "data", "kept", *(f"{name} ms" for name in plain), *(f"lost by {n}" for n in plain if n != "f32")]
    body = []
    for line in lines:
        kept = sorted({row["precision"] for row in line.measured}, key=_order)
        cells = [line.row.name, _data(line), ", ".join(kept)]
        cells += [_number(_engine_mean(line, name, "median_ms"), 2) for name in plain]
        reference = _engine_mean(line, "f32", "image_auroc")
        for name in plain:
            if name != "f32":
                reached = _engine_mean(line, name, "image_auroc")
                cells.append("-" if reference is None or reached is None else f"{reference - reached:+.4f}")
        body.append(cells)
    return markdown_table(head, body)


def _order(name: str) -> tuple[int, str]:
    return (("f32", "bf16", "int8").index(name) if name in {"f32", "bf16", "int8"} else 3, name)


def _engine_mean(line: Line, precision: str, figure: str) -> float | None:
    values = [one[figure] for row in line.measured for one in row["engines"] if one["precision"] == precision]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(line.slots) else None


def directions(lines: Sequence[Line]) -> str:
    """What an ablation changes, here and in the paper; nothing where no row is against another."""
    by_name = {line.row.name: line for line in lines}
    body = []
    for line in lines:
        other = by_name.get(line.row.against or "")
        if other is None or not (line.whole and other.whole):
            continue
        ours = _difference(line.mean("image_auroc"), other.mean("image_auroc"))
        theirs = _difference(*(None if one.row.paper is None else one.row.paper.image_auroc for one in (line, other)))
        same = "-" if ours is None or theirs is None else ("yes" if ours * theirs > 0 else "no")
        body.append((line.row.name, other.row.name, _signed(ours), _signed(theirs), same))
    if not body:
        return ""
    return markdown_table(("row", "against", "image AUROC changes by", "in the paper by", "same direction"), body)


def category_table(lines: Sequence[Line]) -> str:
    """Each category of the rows that are means over several; nothing where there is none."""
    body = [
        (line.row.name, slot.job.category, *(_number(row[name]) for name, _ in QUALITY), rate_text(row, "escape"))
        for line in lines
        if len(line.slots) > 1
        for slot, row in zip(line.slots, line.measured, strict=True)
    ]
    return markdown_table(("row", "category", *(title for _, title in QUALITY), "escapes"), body) if body else ""


def group_table(line: Line, group: str) -> str:
    """One table for each set of the line that has such groups."""
    tables = []
    for slot, row in zip(line.slots, line.measured, strict=True):
        groups: Mapping[str, Any] = row[group]
        if len(groups) > 1:
            head = (f"{slot.job.name}, {group.replace('_', ' ')}", "parts", *(title for _, title in QUALITY), "escapes")
            body = []
            for name, found in groups.items():
                figures = (_number(found[one]) for one, _ in QUALITY)
                body.append((name, str(found["defective"]), *figures, rate_text(found, "escape")))
            tables.append(markdown_table(head, body))
    return "\n\n".join(tables)


def _figure(line: Line, name: str) -> str:
    value = line.mean(name)
    if value is None:
        return "-"
    if len(line.slots) > 1:
        low, high = (pick(row[name] for row in line.measured) for pick in (min, max))
    else:
        interval = line.measured[0].get(f"{name}_interval")
        if interval is None:
            return f"{value:.4f}"
        low, high = interval
    return f"{value:.4f} ({low:.3f} to {high:.3f})"


def _rates(line: Line, what: str) -> str:
    """Counts over all categories together."""
    if len(line.measured) == 1:
        return rate_text(line.measured[0], what)
    counted = sum(row["false_rejects" if what == "false_reject" else "escapes"] for row in line.measured)
    whole = sum(row["good" if what == "false_reject" else "defective"] for row in line.measured)
    return f"{counted} of {whole}, {counted / whole:.1%}" if whole else "-"


def _promised(line: Line) -> str:
    low = min(row["promised"][0] for row in line.measured)
    high = max(row["promised"][1] for row in line.measured)
    return f"{low:.1%} to {high:.1%}"


def _each(line: Line, say: Callable[[Row], str]) -> str:
    """What is said of the rows, once where they agree."""
    return ", ".join(dict.fromkeys(say(row) for row in line.measured))


def _teachers(row: Row) -> str:
    model = row["settings"]["model"]
    names = " + ".join(model["teachers"])
    return f"{names}, untrained" if model["random_teachers"] else names


def _steps(row: Row) -> str:
    """Of student and, where there is one, decoder; the discriminator's schedule is its own."""
    settings = row["settings"]
    training = settings["model"][settings["preset"]]
    decoder = f" + {training['decoder_steps']}" if settings["model"]["decoder"] else ""
    return f"{training['steps']}{decoder} x {training['batch']}"


def _took(line: Line) -> str:
    taken = [row["calibration_s"] for row in line.measured]
    sign = "> " if any(row["resumed"] for row in line.measured) else ""
    return sign + (f"{taken[0]:.0f}" if len(taken) == 1 else f"{min(taken):.0f} to {max(taken):.0f}")


def _data(line: Line) -> str:
    return line.row.data if len(line.slots) <= 1 else f"{line.row.data} ({len(line.slots)})"


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
